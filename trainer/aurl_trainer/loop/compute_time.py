"""Seconds that each rank computes on its own in a step, which tells a slow rank from those that wait for it.

Ranks finish a synchronous step together, because the backward pass exchanges gradients: one slow rank makes
the step as long for all of them. On its own, a rank waits for its data and runs the forward pass. Module
hooks measure the forward pass, if there are other ranks to compare with. On a GPU, events are recorded for
one pass in `SAMPLE_EVERY`, and read when a log line has waited for the device anyway.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from aurl_trainer.distributed.runtime import Distributed

SAMPLE_EVERY = 16
"""Forward passes per measured pass, on a GPU."""


class ComputeTime:
    """Measures the forward passes of a model in training mode; does nothing in a job of one rank."""

    def __init__(self, model: nn.Module, distributed: Distributed) -> None:
        self._passes = 0
        self._measured = 0
        self._seconds = 0.0
        self._mean = 0.0
        self._started = 0.0
        self._cuda = distributed.device.type == "cuda"
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._open: torch.cuda.Event | None = None
        self._waited = 0.0
        if not distributed.alone:
            model.register_forward_pre_hook(self._begin)
            model.register_forward_hook(self._end)

    def lap(self, waited: float, steps: int) -> float:
        """Return the mean seconds per step that this rank spent on its own since the last lap.

        `waited` is the total of seconds spent waiting for data, `steps` the number of steps since the last
        lap. Passes that a GPU has not finished yet count in the next lap.
        """
        while self._events and self._events[0][1].query():  # type: ignore[no-untyped-call]
            started, ended = self._events.pop(0)
            self._seconds += started.elapsed_time(ended) / 1000
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
        self._started = time.perf_counter()

    def _end(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if not module.training:
            return
        self._passes += 1
        if not self._cuda:
            self._seconds += time.perf_counter() - self._started
            self._measured += 1
        elif self._open is not None:
            ended = _event()
            self._events.append((self._open, ended))
            self._open = None


def _event() -> torch.cuda.Event:
    """Record an event in the device's queue."""
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
