"""The time of a whole job over all of its attempts: goodput, and badput by cause.

The accounts are in `goodput.json` on the volume. They always add up to the wall-clock time since the job's
first process started: time that no process accounts for (scheduling, image pulls, a dead pod) is `restart`,
and the time of steps that are lost with a process moves from goodput to `lost_progress`.
Terms as in Google's ML Productivity Goodput and in nvidia-resiliency-ext. Reads no clock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aurl_trainer.monitor.snapshot import BADPUT_CAUSES, PRODUCTIVE, read_json, write_json

GOODPUT_FILE = "goodput.json"

MAX_MARKS = 64


@dataclass
class Accounts:
    """Seconds by use, complete up to `settled_at` (seconds since the epoch)."""

    started_at: float
    settled_at: float
    goodput: float = 0.0
    badput: dict[str, float] = field(default_factory=lambda: dict.fromkeys(BADPUT_CAUSES, 0.0))
    marks: dict[int, float] = field(default_factory=dict)
    """Goodput at each of the newest checkpoints, by step."""

    @property
    def ratio(self) -> float | None:
        """Goodput as a share of the wall clock; None before any time has passed."""
        total = self.settled_at - self.started_at
        return self.goodput / total if total > 0 else None

    def resume(self, process_started_at: float) -> None:
        """Account for the time without a process of the job."""
        gap = process_started_at - self.settled_at
        if gap > 0:
            self.badput["restart"] += gap
            self.settled_at = process_started_at

    def add(self, seconds: Mapping[str, float]) -> None:
        """Account for the time since `settled_at`, by phase."""
        for phase, spent in seconds.items():
            if phase == PRODUCTIVE:
                self.goodput += spent
            else:
                self.badput[phase] += spent
            self.settled_at += spent

    def mark(self, step: int) -> None:
        """Record that a checkpoint of `step` holds the progress so far."""
        self.marks[step] = self.goodput
        for old in sorted(self.marks)[:-MAX_MARKS]:
            del self.marks[old]

    def rewind(self, step: int) -> None:
        """Continue from `step`: later progress was lost."""
        kept = max((self.marks[at] for at in self.marks if at <= step), default=0.0)
        self.badput["lost_progress"] += self.goodput - kept
        self.goodput = kept
        self.marks = {at: value for at, value in self.marks.items() if at <= step}


class GoodputFile:
    """The accounts of a job on the volume, kept by one of its processes at a time."""

    def __init__(self, job_dir: Path, process_started_at: float) -> None:
        self._file = job_dir / GOODPUT_FILE
        self._booked: dict[str, float] = {}
        self.accounts = _read(self._file) or Accounts(process_started_at, process_started_at)
        self.accounts.resume(process_started_at)

    def settle(self, phase_seconds: Mapping[str, float]) -> None:
        """Account for the growth of `phase_seconds` (totals of this process) since the last call."""
        self.accounts.add(
            {name: total - self._booked.get(name, 0.0) for name, total in phase_seconds.items()}
        )
        self._booked = dict(phase_seconds)

    def write(self) -> None:
        """Replace the file; if the volume is full, the old one stays."""
        with contextlib.suppress(OSError):
            write_json(self._file, self.accounts)


def _read(path: Path) -> Accounts | None:
    """Return the accounts in `path`, or None if they are missing or damaged."""
    value = read_json(path)
    if value is None:
        return None
    try:
        badput = {cause: float(value["badput"].get(cause, 0.0)) for cause in BADPUT_CAUSES}
        marks = {int(step): float(seconds) for step, seconds in value["marks"].items()}
        started_at, settled_at, goodput = (
            float(value[name]) for name in ("started_at", "settled_at", "goodput")
        )
        return Accounts(started_at, settled_at, goodput, badput, marks)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
