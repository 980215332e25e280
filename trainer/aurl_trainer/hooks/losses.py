"""Extra terms of the loss: computed beside the cross-entropy, weighted, added up for the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from aurl_trainer.data.vocabulary import Vocabulary
from aurl_trainer.distributed.runtime import Distributed
from aurl_trainer.errors import UserError
from aurl_trainer.hooks.interface import LossInputs
from aurl_trainer.hooks.load import Hook


class ExtraLosses:
    """The terms of a job that has any. `sums` (terms,) are since the last log line, on the device."""

    def __init__(
        self,
        hooks: Sequence[Hook],
        last_norm: nn.Module,
        vocabulary: Vocabulary,
        device: torch.device,
        token_loss: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        """`last_norm` is the module of the model whose output is what hooks know as `hidden`."""
        self.hooks, self.vocabulary, self.token_loss = list(hooks), vocabulary, token_loss
        self.sums = torch.zeros(len(self.hooks), dtype=torch.float32, device=device)
        self._before = self.sums.clone()
        self._hidden: Tensor | None = None
        last_norm.register_forward_hook(self._keep)

    def losses(self, logits: Tensor, inputs: Tensor, targets: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy and what is minimised, both summed over the targets that count.

        Raises UserError that names a hook that raises or does not return a term.
        """
        assert self._hidden is not None, "the model has not run"
        loss = self.token_loss(logits, targets)
        objective, terms = loss, []
        batch = LossInputs(logits, self._hidden, inputs, targets, step, self.vocabulary)
        self._hidden = None
        for hook in self.hooks:
            with hook.blamed():
                term = hook.function(batch)
            if not isinstance(term, Tensor) or term.ndim or not term.requires_grad:
                raise UserError(
                    f"The {hook.label} must return one tensor without dimensions that depends on logits or "
                    "hidden: the term summed over the targets that count."
                )
            objective = objective + hook.weight * term.float()
            terms.append(term.detach().float())
        self.sums += torch.stack(terms)
        return loss, objective

    def begin(self) -> None:
        """Begin a step, which may have to be done again."""
        self._before.copy_(self.sums)

    def undo(self) -> None:
        """Forget what the step has added."""
        self.sums.copy_(self._before)
        self._hidden = None

    def read(self, distributed: Distributed) -> dict[str, float]:
        """Return the sums over all ranks by name and begin anew; the host waits for the device."""
        totals = distributed.sum(self.sums).tolist()
        self.sums.zero_()
        return {hook.name: total for hook, total in zip(self.hooks, totals, strict=True)}

    def resume(self, sums: Mapping[str, float]) -> None:
        """Begin with `sums`, on one rank alone; terms that are not among them begin at 0."""
        self.sums.copy_(torch.tensor([sums.get(hook.name, 0.0) for hook in self.hooks]))

    def _keep(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self._hidden = output if torch.is_grad_enabled() else None
