"""Decides for each step, without a host sync, whether its update is applied and how its gradient is scaled.

A rejected step changes no weight and no moment. The optimizer's kernel divides the gradients, so clipping,
normalisation and the loss scale need no extra pass over them. All ranks see the same reduced gradient and so
decide the same; of a sharded gradient they see the same norm, summed over ranks.

A step is a spike if its norm is far above those of the window. A rejected step leaves the weights as they
are, so when spikes outnumber accepted steps by MAX_EXCESS, the cause is the weights and not a bad batch: the
next finite step is accepted and starts a new window. Otherwise a lasting change of the norm would end all
learning.

State, all on the training device:
  window[W]   norms of the last W accepted steps (written round-robin)
  counters    accepted since the norms were forgotten, nonfinite, spikes, consecutive, last rejected step,
              excess of spikes: one more for each, one less (but not below 0) for each accepted step
  scale       the loss scale of fp16, and its growth counter
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aurl_trainer.optim.clipping import clip_units, clip_values
from aurl_trainer.stability.config import StabilityConfig

ACCEPTED, NONFINITE, SPIKES, CONSECUTIVE, LAST_REJECTED, EXCESS = range(6)

MAX_EXCESS = 5
"""Excess of spikes at which longer norms count as normal."""

LEAST_DEVIATION = 0.1
"""Smallest standard deviation of the window, as a share of its mean: norms of a calm run hardly vary."""

INITIAL_SCALE = 2.0**16
GROWTH_INTERVAL = 2000
MAX_SCALE = 2.0**24


@dataclass(frozen=True)
class GuardStatistics:
    """The guard's state on the host; counts are since the start of training."""

    norm: float
    """Norm of the last step's gradient before clipping."""
    nonfinite: int
    spikes: int
    consecutive: int
    """Rejected steps since the last accepted one."""
    last_rejected: int


class UpdateGuard:
    """The gate between the gradients and the optimizer."""

    def __init__(
        self,
        config: StabilityConfig,
        max_norm: float,
        *,
        max_value: float = 0.0,
        adaptive_ratio: float = 0.0,
        parameters: Sequence[Tensor] = (),
        scaled: bool,
        device: torch.device,
        sum_over_shards: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.sum_over_shards = sum_over_shards
        self.sigma, self.max_norm, self.scaled = config.spike_sigma, max_norm, scaled
        self.max_value, self.adaptive_ratio, self.parameters = max_value, adaptive_ratio, parameters
        self.window = torch.zeros(config.window, dtype=torch.float32, device=device)
        self.counters = torch.zeros(6, dtype=torch.int64, device=device)
        self.scale = torch.full((), INITIAL_SCALE if scaled else 1.0, dtype=torch.float32, device=device)
        self.growth = torch.zeros((), dtype=torch.int64, device=device)
        self.norm = torch.zeros((), dtype=torch.float32, device=device)

    def tensors(self) -> dict[str, Tensor]:
        """Return the state as named tensors (not copies)."""
        return {"window": self.window, "counters": self.counters, "scale": self.scale, "growth": self.growth}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy in saved state; a window of another length starts empty."""
        for name, mine in self.tensors().items():
            if tensors[name].shape == mine.shape:
                mine.copy_(tensors[name])
        if tensors["window"].shape != self.window.shape:
            self.counters[ACCEPTED] = 0

    def forget_norms(self) -> None:
        """Forget earlier norms, with which the next cannot be compared; judge none before a full window."""
        self.counters[ACCEPTED].zero_()

    def read(self) -> GuardStatistics:
        """Return the state; the host waits for the device here."""
        counters = self.counters.tolist()
        return GuardStatistics(
            norm=float(self.norm),
            nonfinite=counters[NONFINITE],
            spikes=counters[SPIKES],
            consecutive=counters[CONSECUTIVE],
            last_rejected=counters[LAST_REJECTED],
        )

    @torch.no_grad()
    def admit(self, gradients: Sequence[Tensor], normaliser: float, step: int) -> tuple[Tensor, Tensor]:
        """Return the divisor of the gradients, and 1 if the step is rejected, else 0: scalars on the device.

        The true gradient is `gradient · normaliser / scale`; its norm is what clipping and statistics use,
        and is left in `self.norm`. Clipping by unit or value changes the gradients after they are judged: it
        would hide an infinite one.
        """
        norm = self._norm(gradients, normaliser)
        finite = torch.isfinite(norm)
        accepted = finite
        if self.sigma > 0:
            accepted = finite & ~self._spike(norm)
        length = norm
        if self.max_value > 0 or self.adaptive_ratio > 0:
            length = self._clip_parts(gradients, normaliser)
        if self.max_norm > 0:
            divisor = length.clamp(min=self.max_norm) * (1 / (self.max_norm * normaliser))
        else:
            divisor = torch.full_like(norm, 1 / normaliser)
        if self.scaled:
            divisor = divisor * self.scale
        self._count(norm, finite, accepted, step)
        self.norm = norm
        return divisor, (~accepted).to(torch.float32)

    def _spike(self, norm: Tensor) -> Tensor:
        """Return whether the norm is far above those of a full window; too many spikes end the window."""
        outdated = (self.counters[EXCESS] >= MAX_EXCESS) & torch.isfinite(norm)
        self.counters[ACCEPTED] *= ~outdated
        self.counters[EXCESS] *= ~outdated
        std, mean = torch.std_mean(self.window)
        full = self.counters[ACCEPTED] >= len(self.window)
        return (norm > mean + self.sigma * torch.maximum(std, LEAST_DEVIATION * mean)) & full

    def _clip_parts(self, gradients: Sequence[Tensor], normaliser: float) -> Tensor:
        """Clip every unit and every element of the true gradient, and return its norm afterwards."""
        one = self.scale / normaliser
        if self.adaptive_ratio > 0:
            clip_units(gradients, self.parameters, one * self.adaptive_ratio)
        if self.max_value > 0:
            clip_values(gradients, one * self.max_value)
        return self._norm(gradients, normaliser)

    def _norm(self, gradients: Sequence[Tensor], normaliser: float) -> Tensor:
        """Return the norm of the true gradient."""
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        if self.sum_over_shards is not None:  # each rank holds a shard of the gradient
            norm = self.sum_over_shards(norm.square()).sqrt()
        norm = norm * normaliser
        return norm / self.scale if self.scaled else norm

    def _count(self, norm: Tensor, finite: Tensor, accepted: Tensor, step: int) -> None:
        counters = self.counters
        slot = (counters[ACCEPTED] % len(self.window)).view(1)
        self.window.scatter_(0, slot, torch.where(accepted, norm, self.window.gather(0, slot)))
        yes = accepted.to(torch.int64)
        no = 1 - yes
        nonfinite = (~finite).to(torch.int64)
        spike = no - nonfinite
        increment = torch.stack((yes, nonfinite, spike, no, step * no, spike - yes))
        # These two are replaced, the others are summed.
        counters[CONSECUTIVE] *= no
        counters[LAST_REJECTED] *= yes
        counters += increment
        counters[EXCESS].clamp_(min=0)
        if self.scaled:
            self._rescale(nonfinite)

    def _rescale(self, nonfinite: Tensor) -> None:
        """Halve the loss scale after an overflow, double it after GROWTH_INTERVAL steps without one."""
        bad = nonfinite.bool()
        self.growth.copy_(torch.where(bad, 0, self.growth + 1))
        grown = self.growth >= GROWTH_INTERVAL
        self.scale.copy_(torch.where(bad, self.scale * 0.5, torch.where(grown, self.scale * 2, self.scale)))
        self.scale.clamp_(1.0, MAX_SCALE)
        self.growth.copy_(torch.where(grown, 0, self.growth))
