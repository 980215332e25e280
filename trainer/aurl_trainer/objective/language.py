"""Mode `transformer`: next-token prediction, by plain cross-entropy or by terms."""

# ruff: noqa: N803, N806 - names carry shapes
from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from aurl_trainer.data.loader import IGNORED
from aurl_trainer.distributed.runtime import Distributed
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
