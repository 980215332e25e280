"""Moving average of the weights over steps (Polyak and Juditsky 1992), which often predicts better."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from aurl_trainer.distributed.sharding import local
from aurl_trainer.optim.config import EmaConfig


class WeightAverage:
    """a ← d·a + (1 − d)·w after every accepted update; rejected ones do not count.

    After n updates d is the configured decay, or (1 + n) / (10 + n) while that is smaller, so that the
    initial weights are soon forgotten. Everything happens on the device, shard by shard if sharded.
    """

    def __init__(self, parameters: Mapping[str, Tensor], config: EmaConfig) -> None:
        self.decay, self.warmup = config.decay, config.warmup
        self.average = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self._average = [local(tensor) for tensor in self.average.values()]
        self._weights = [local(parameter.detach()) for parameter in parameters.values()]
        self.updates = torch.zeros((), dtype=torch.float32, device=self._weights[0].device)
        """Number of averaged updates."""

    @torch.no_grad()
    def update(self, rejected: Tensor) -> None:
        """Add the weights to the average, unless the scalar `rejected` is 1."""
        if self.warmup:
            keep = ((1 + self.updates) / (10 + self.updates)).clamp(max=self.decay)
        else:
            keep = torch.full_like(self.updates, self.decay)
        accepted = 1 - rejected
        self.updates += accepted
        # Weights are always finite, so a share of 0 leaves the average unchanged.
        share = (1 - keep) * accepted
        torch._foreach_lerp_(self._average, self._weights, [share] * len(self._weights))

    @torch.no_grad()
    def begin_again(self) -> None:
        """Reset the average to the current weights."""
        torch._foreach_copy_(self._average, self._weights)
        self.updates.zero_()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model compute with the average inside the context, by swapping values."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, weight in zip(self._average, self._weights, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
