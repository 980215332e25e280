"""How long each rank computes by itself in a step: what tells a slow rank from those that wait for it.

In a synchronous step all ranks end together, because the backward pass exchanges gradients: whoever is slow,
all take the same time. What a rank does alone is to wait for its data and to run the forward pass. Hooks
around the model measure the latter, and only where there are peers to compare with. On a GPU events on the
device are recorded for one pass in `SAMPLE_EVERY`, and read when a log line has waited for the device anyway.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from aurl_trainer.distributed.runtime import Distributed

SAMPLE_EVERY = 16
"""Forward passes per pass that is measured on a GPU."""


class ComputeTime:
    """Measures the forward passes of a model in training mode; does nothing for a rank that is alone."""

    def __init__(self, model: nn.Module, distributed: Distributed) -> None:
        self._passes = 0
        self._measured = 0
        self._seconds = 0.0
        self._mean = 0.0
        self._began = 0.0
        self._cuda = distributed.device.type == "cuda"
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._open: torch.cuda.Event | None = None
        self._waited = 0.0
        if not distributed.alone:
            model.register_forward_pre_hook(self._begin)
            model.register_forward_hook(self._end)

    def lap(self, waited: float, steps: int) -> float:
        """Return the mean seconds of own work per step since the last lap: data and forward passes.

        `waited` is the total of seconds that this rank has waited for data, `steps` how many there were.
        Passes that a GPU has not done yet are left for the next lap.
        """
        while self._events and self._events[0][1].query():  # type: ignore[no-untyped-call]
            began, ended = self._events.pop(0)
            self._seconds += began.elapsed_time(ended) / 1000
            self._measured += 1
        if self._measured:
            self._mean = self._seconds / self._measured
        forward = self._mean * self._passes
        data = waited - self._waited
        self._waited, self._passes, self._measured, self._seconds = waited, 0, 0, 0.0
        return (forward + data) / max(steps, 1)

    def _begin(self, module: nn.Module, arguments: Any) -> None:
        if self._cuda and module.training and self._passes % SAMPLE_EVERY == 0:
            self._open = _event()
        self._began = time.perf_counter()

    def _end(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if not module.training:
            return
        self._passes += 1
        if not self._cuda:
            self._seconds += time.perf_counter() - self._began
            self._measured += 1
        elif self._open is not None:
            ended = _event()
            self._events.append((self._open, ended))
            self._open = None


def _event() -> torch.cuda.Event:
    """A point in the device's queue, now."""
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
