"""Passes whose results are thrown away: to measure memory and time, and to warm up."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from aurl_trainer.model.compilation import Compilation
from aurl_trainer.objective.objective import Objective


class Rehearsal:
    """Runs passes as in optimizer step `step`, on tokens that are all 0."""

    def __init__(
        self,
        objective: Objective,
        compilation: Compilation,
        precision: AbstractContextManager[object],
        device: torch.device,
        step: int,
    ) -> None:
        self.objective, self.compilation, self.precision = objective, compilation, precision
        self.device, self.step = device, step

    def warm_up(self, network: nn.Module, shapes: Iterable[tuple[int, int]]) -> None:
        """Run passes of the wrapped `network` for each shape (samples, tokens per sample).

        After its first pass DDP fixes the order in which it adds gradients up; without this, a resumed run
        would add up its first step in another order than the run it continues. It also allocates memory
        before the first step.
        """
        for shape in shapes:
            tokens = torch.zeros(shape, dtype=torch.int64, device=self.device)
            for _ in range(2):  # DDP rebuilds its buckets at the start of the second
                self._pass(network, tokens)
        self.objective.forget()

    def timed_pass(self, samples: int, length: int) -> float:
        """Run an uncompiled pass on this rank only, and return its seconds."""
        tokens = torch.zeros(samples, length, dtype=torch.int64, device=self.device)
        started = time.perf_counter()
        with self.compilation.paused():
            self._pass(self.objective.network, tokens)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = time.perf_counter() - started
        self.objective.forget()
        return seconds

    def _pass(self, network: nn.Module, tokens: Tensor) -> None:
        with self.precision:
            loss = self.objective.rehearse(network, tokens, self.step)
        torch.autograd.backward(loss)
        for parameter in network.parameters():
            parameter.grad = None
