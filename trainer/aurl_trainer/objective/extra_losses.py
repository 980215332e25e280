"""Mode `transformer` with the user's extra losses: weighted terms beside the plain cross-entropy."""

# ruff: noqa: N803 - names carry shapes
from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from aurl_trainer.data.vocabulary import Vocabulary
from aurl_trainer.errors import UserError
from aurl_trainer.hooks.interface import LossInputs
from aurl_trainer.hooks.load import Hook
from aurl_trainer.model.transformer import Transformer
from aurl_trainer.objective.language import LanguageObjective
from aurl_trainer.objective.objective import Losses


class ExtraLossesObjective(LanguageObjective):
    """The cross-entropy plus hooks, each with its weight."""

    def __init__(
        self,
        model: Transformer,
        token_loss: Callable[[Tensor, Tensor], Tensor],
        hooks: Sequence[Hook],
        vocabulary: Vocabulary,
    ) -> None:
        """`token_loss` must leave the logits as they are: hooks read them."""
        super().__init__(model, token_loss)
        self.hooks, self.vocabulary = hooks, vocabulary
        self.extra_terms = [hook.name for hook in hooks]
        self._hidden: Tensor | None = None
        model.norm.register_forward_hook(self._keep)

    def losses(self, network: nn.Module, inputs_BT: Tensor, targets_BT: Tensor, step: int) -> Losses:
        """Return the cross-entropy plus all weighted terms, the cross-entropy alone, and the terms.

        Raises UserError naming a hook that raises or does not return a term.
        """
        logits = network(inputs_BT)
        assert self._hidden is not None, "the model has not run"
        minimised = loss = self.token_loss(logits, targets_BT)
        batch = LossInputs(logits, self._hidden, inputs_BT, targets_BT, step, self.vocabulary)
        self._hidden = None
        terms = []
        for hook in self.hooks:
            with hook.blamed():
                term = hook.function(batch)
            if not isinstance(term, Tensor) or term.ndim or not term.requires_grad:
                raise UserError(
                    f"The {hook.label} must return one tensor without dimensions that depends on logits or "
                    "hidden: the term summed over the targets that count."
                )
            minimised = minimised + hook.weight * term.float()
            terms.append(term.detach().float())
        return Losses(minimised, loss, torch.stack(terms))

    def rehearse(self, network: nn.Module, tokens_BT: Tensor, step: int) -> Tensor:
        """Return the cross-entropy."""
        return super().losses(network, tokens_BT, tokens_BT, step).minimised

    def forget(self) -> None:
        """Drop the hidden states of a pass that failed."""
        self._hidden = None

    def _keep(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self._hidden = output if torch.is_grad_enabled() else None
