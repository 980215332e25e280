"""Mode `transformer`: cross-entropy of the next token, alone or with extra losses, or weighted terms."""

# ruff: noqa: N803, N806 - names carry shapes
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from aurl_trainer.data.loader import IGNORED
from aurl_trainer.data.vocabulary import Vocabulary
from aurl_trainer.distributed.runtime import Distributed
from aurl_trainer.errors import UserError
from aurl_trainer.hooks.interface import LossInputs
from aurl_trainer.hooks.load import Hook
from aurl_trainer.losses.term import TokenPass, TokenTables
from aurl_trainer.losses.weighted import WeightedTerms
from aurl_trainer.model.transformer import Transformer, token_loss_sum
from aurl_trainer.objective.objective import Losses, MicroBatch, Objective


class LanguageObjective(Objective):
    """The cross-entropy of all tokens, straight from the model's logits."""

    model: Transformer

    def __init__(self, model: Transformer, token_loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        """`token_loss` sums over targets; it may be compiled, and may overwrite the logits."""
        self.model = self.network = model
        self.token_loss = token_loss

    def losses(self, network: nn.Module, inputs_BT: Tensor, targets_BT: Tensor, step: int) -> Losses:
        """Return the cross-entropy as both losses."""
        loss = self.token_loss(network(inputs_BT), targets_BT)
        return Losses(loss, loss)

    @torch.no_grad()
    def evaluate(
        self,
        batches: Iterable[MicroBatch],
        distributed: Distributed,
        precision: AbstractContextManager[object],
    ) -> dict[str, float]:
        """Return the mean loss in nats per token."""
        self.model.eval()
        total = torch.zeros(2, device=distributed.device)
        for inputs, targets in batches:
            with precision:
                total[0] += token_loss_sum(self.model(inputs), targets)
            total[1] += (targets != IGNORED).sum()
        self.model.train()
        distributed.after_evaluation(self.model)
        loss_sum, valid = distributed.sum(total).tolist()
        return {"loss": loss_sum / valid} if valid else {}


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


class LanguageTermsObjective(LanguageObjective):
    """Weighted terms over the predictions and hidden states of the model."""

    def __init__(self, model: Transformer, terms: WeightedTerms, tables: TokenTables) -> None:
        super().__init__(model, token_loss_sum)
        model.add_module("terms", terms)
        self.terms = terms
        self.network = _LanguageTerms(model, terms, tables)

    def losses(self, network: nn.Module, inputs_BT: Tensor, targets_BT: Tensor, step: int) -> Losses:
        """Return the weighted terms, and the plain cross-entropy."""
        return Losses(*network(inputs_BT, targets_BT, step))


class _LanguageTerms(nn.Module):
    """Tokens to loss in one forward pass, as DDP needs it."""

    def __init__(self, model: Transformer, terms: WeightedTerms, tables: TokenTables) -> None:
        super().__init__()
        self.model, self.terms, self.tables = model, terms, tables

    def forward(self, inputs_BT: Tensor, targets_BT: Tensor, step: int) -> tuple[Tensor, Tensor]:
        model = self.model
        states_BTC = model.states(inputs_BT)

        def again() -> Tensor:
            logits_BTV: Tensor = model(inputs_BT)
            return logits_BTV.float()

        seen = TokenPass(
            self.tables, inputs_BT, targets_BT, states_BTC, model.head(states_BTC).float(), again
        )
        return self.terms(seen, step), seen.nll_BT.sum().detach()
