"""The weighted sum of terms, with scheduled and learned weights, and the means for the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from aurl_trainer.distributed.runtime import Distributed
from aurl_trainer.losses import adversarial, consistency, latent, reconstruction, regularisers, structure
from aurl_trainer.losses.config import LossesConfig, weight_at
from aurl_trainer.losses.term import Measured, TermFunction

FUNCTIONS: Final[Mapping[str, TermFunction]] = {
    **reconstruction.FUNCTIONS,
    **regularisers.FUNCTIONS,
    **latent.FUNCTIONS,
    **structure.FUNCTIONS,
    **consistency.FUNCTIONS,
    **adversarial.FUNCTIONS,
}
"""Every term by its name in the configuration."""

BALANCED: Final = (
    *reconstruction.FUNCTIONS,
    *structure.FUNCTIONS,
)
"""Terms that uncertainty weighting balances: prediction errors. It would turn penalties off."""

SKIPPABLE: Final = ("repetition", "dropout_consistency", "total_correlation", "corruption_consistency",
                 "cycle_consistency", "latent_use", "adversarial_states", "adversarial_latents",
                 "feature_matching")  # fmt: skip
"""Expensive terms without parameters: skipped in steps where their weight is 0."""

JUMP: Final = 0.1
"""Change of a weight from one step to the next that lengthens gradients, as a share of the full weight."""


class WeightedTerms(nn.Module):
    """The terms of one player. The parameters are those of uncertainty weighting, if it is enabled."""

    def __init__(
        self, config: LossesConfig, names: Sequence[str], total_steps: int, device: torch.device
    ) -> None:
        super().__init__()
        self.config, self.names, self.total_steps = config, list(names), total_steps
        balanced = [name for name in names if name in BALANCED] if config.balance == "uncertainty" else []
        self.log_variance = nn.ParameterDict({name: nn.Parameter(torch.zeros(1)) for name in balanced})
        # Sum and count of each term since the last `take`, on the device so that no step waits for it. Not a
        # buffer, because DDP would overwrite it with rank 0's.
        self.counts = torch.zeros(len(self.names), 2, device=device)

    def forward(self, seen: Any, step: int, factors: Mapping[str, float] | None = None) -> Tensor:
        """Return the weighted sum of all terms of a pass; `factors` multiply the weights of the named terms.

        Terms with factor 0 are not computed.
        """
        total: Tensor | None = None
        rows: list[Tensor] = []
        nothing = torch.zeros(2, device=self.counts.device)
        for name in self.names:
            factor = 1.0 if factors is None else factors.get(name, 1.0)
            weight = factor * weight_at(self.config.term(name), step, self.total_steps)
            if factor == 0 or (weight == 0 and name in SKIPPABLE):
                rows.append(nothing)
                continue
            measured = FUNCTIONS[name](seen)
            rows.append(torch.stack((measured.total, measured.count)).detach().float())
            part = weight * self._balanced(name, measured)
            total = part if total is None else total + part
        if torch.is_grad_enabled():
            self.counts += torch.stack(rows)
        assert total is not None
        return total

    def _balanced(self, name: str, measured: Measured) -> Tensor:
        if name not in self.log_variance:
            return measured.objective
        s = cast(Tensor, self.log_variance[name])[0]
        return (-s).exp() * measured.objective + s * measured.count

    def plays_at(self, step: int) -> bool:
        """Return True if a term against the critic, or of the critic, has a positive weight in this step."""
        return any(
            name in adversarial.FUNCTIONS and weight_at(self.config.term(name), step, self.total_steps) > 0
            for name in self.names
        )

    def weight_jumps_at(self, step: int) -> bool:
        """Return True if a term comes in or goes out in this step, or its weight changes by JUMP at once."""
        for name in self.names:
            term = self.config.term(name)
            before, now = (weight_at(term, at, self.total_steps) for at in (step - 1, step))
            if (before == 0) != (now == 0) or abs(now - before) > JUMP * term.weight:
                return True
        return False

    def take(self, distributed: Distributed) -> dict[str, float]:
        """Return the mean over all ranks of each term computed since the last call."""
        rows = distributed.sum(self.counts).tolist()
        self.counts.zero_()
        return {name: total / count for name, (total, count) in zip(self.names, rows, strict=True) if count}
