"""Memory peaks of a rank by phase, at no cost in most steps.

The kernel and the allocator track peaks; they are read and reset where a phase ends. In training that happens
in logged steps, at most once a second: such a step is split into its passes and its update. All other steps
count as `training`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from aurl_trainer.monitor.report import RankReporter
from aurl_trainer.monitor.snapshot import MEMORY_PHASES, write_json
from aurl_trainer.system.device import device_memory, reset_device_peak

INTERVAL = 1.0
"""Seconds between two steps that are split into phases, at least."""


class MemoryProfile:
    """Memory peaks of this rank in bytes; exactly one phase is running at any moment."""

    def __init__(self, reporter: RankReporter, device: torch.device, every_steps: int) -> None:
        self.reporter, self.device, self.every_steps = reporter, device, every_steps
        self.watching = False
        """True if the running step is split into phases."""
        self._phase = "initialise"
        self._next_split = 0.0
        self._device_peak = 0

    def enter(self, phase: str) -> None:
        """End the running phase and start another."""
        self.settle()
        self._phase = phase

    @contextmanager
    def phase(self, phase: str) -> Iterator[None]:
        """Run `phase`, then return to the one before."""
        before = self._phase
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    def step(self, step: int) -> None:
        """Start a training step, and split it if it will be logged and the last split is long enough ago."""
        self.watching = False
        if step % self.every_steps == 0 or step == 1:
            now = time.monotonic()
            if now >= self._next_split:
                self._next_split = now + INTERVAL
                self.watching = True
                self.enter("forward_backward")

    def split(self, phase: str) -> None:
        """Enter `phase` if the running step is split."""
        if self.watching:
            self.enter(phase)

    def settle(self) -> None:
        """Record the peaks since the last call under the running phase."""
        peaks = {"rss": self.reporter.host.take_peak()}
        memory = device_memory(self.device)
        if memory is not None:
            peaks["device"] = memory["peak"]
            self._device_peak = max(self._device_peak, memory["peak"])
            reset_device_peak(self.device)
            self.reporter.device_memory(**memory | {"peak": self._device_peak})
        booked = self.reporter.snapshot.memory_phases.setdefault(self._phase, {})
        for kind, peak in peaks.items():
            booked[kind] = max(booked.get(kind, 0), peak)

    def summary(self) -> dict[str, Any]:
        """Return the peaks so far by phase, and the highest of each kind with its phase."""
        self.settle()
        phases = self.reporter.snapshot.memory_phases
        kinds = sorted({kind for peaks in phases.values() for kind in peaks})
        highest = {kind: max(phases, key=lambda phase: phases[phase].get(kind, 0)) for kind in kinds}
        return {
            "rank": self.reporter.snapshot.rank,
            "peak": {kind: {"phase": phase, "bytes": phases[phase][kind]} for kind, phase in highest.items()},
            "phases": {phase: phases[phase] for phase in MEMORY_PHASES if phase in phases},
        }


def write_profile(path: Path, ranks: list[str], about: dict[str, Any]) -> dict[str, Any]:
    """Write the JSON summaries of all ranks to the volume; return the highest peaks of any rank."""
    summaries = [json.loads(text) for text in ranks]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, about | {"ranks": summaries})
    worst: dict[str, Any] = {}
    for kind in summaries[0]["peak"]:
        found = max(summaries, key=lambda summary: int(summary["peak"][kind]["bytes"]))
        worst[kind] = found["peak"][kind] | {"rank": found["rank"]}
    return worst
