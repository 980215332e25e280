"""The history of a job over all of its attempts, in bounded space: curves, events, attempts. Pure.

Times are seconds since the epoch, losses nats per token. A curve that exceeds its limit keeps evenly spaced
points, so that the whole job stays visible however long it runs.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from aurl_trainer.launcher.progress import plain_json
from aurl_trainer.metrics import StepMetrics, ValidationMetrics, columns
from aurl_trainer.monitor.snapshot import JobEvent, JobSnapshot, RankSnapshot

FORMAT = 1

MAX_POINTS = 1000
MAX_EVENTS = 200
MAX_ATTEMPTS = 50

RECENT_POINTS = 30
"""Number of the newest points from which the time per step is estimated."""

Row = list[float | None]


class Curve:
    """At most `limit` rows over increasing steps; the newest is always kept."""

    def __init__(self, columns: tuple[str, ...], limit: int = MAX_POINTS) -> None:
        self.columns, self.limit = columns, limit
        self.rows: list[Row] = []
        self._spacing = 1.0

    @property
    def last_step(self) -> float:
        """Step of the newest row; -1 without one."""
        return _step(self.rows[-1]) if self.rows else -1.0

    def add(self, row: Row) -> None:
        """Append a row of a later step; values that are not finite become None."""
        if len(self.rows) > 1 and self.last_step - _step(self.rows[-2]) < self._spacing:
            self.rows.pop()  # it was kept only as the newest
        self.rows.append([_finite(value) for value in row])
        if len(self.rows) > self.limit:
            self._thin()

    def rewind(self, step: float) -> None:
        """Drop rows later than `step`."""
        while self.rows and self.last_step > step:
            self.rows.pop()

    def restore(self, columns: object, rows: object) -> None:
        """Take the rows of a stored curve; columns that it lacks stay empty, damaged rows are skipped."""
        if not isinstance(columns, list) or columns[:1] != ["step"] or not isinstance(rows, list):
            return
        places = [columns.index(name) if name in columns else None for name in self.columns]
        for row in rows:
            if _is_row(row, len(columns)) and row[0] > self.last_step:
                self.add([row[place] if place is not None else None for place in places])

    def _thin(self) -> None:
        self._spacing = (self.last_step - _step(self.rows[0])) / (self.limit // 2)
        kept = self.rows[:1]
        for row in self.rows[1:-1]:
            if _step(row) - _step(kept[-1]) >= self._spacing:
                kept.append(row)
        self.rows = [*kept, self.rows[-1]]


@dataclass
class AttemptRecord:
    """One attempt of the job; `state` stays None while it runs, and if its pod vanished."""

    number: int
    started_at: float
    start_step: int | None = None
    ended_at: float | None = None
    state: str | None = None
    failure_class: str | None = None
    message: str | None = None


@dataclass
class History:
    """Curves, events and attempts; `version` increases with every change."""

    train: Curve = field(default_factory=lambda: Curve(column_names(StepMetrics)))
    validation: Curve = field(default_factory=lambda: Curve(column_names(ValidationMetrics)))
    events: list[JobEvent] = field(default_factory=list)
    attempts: list[AttemptRecord] = field(default_factory=list)
    progress: dict[str, Any] | None = None
    """The last `/progress` of the newest attempt after its end."""
    version: int = 0
    _seen: tuple[int, int] | None = None
    """Process ID and start step of the rank that the curves belong to."""

    def begin(self, attempt: int, now: float) -> None:
        """Start an attempt."""
        self.attempts = [*self.attempts, AttemptRecord(attempt, now)][-MAX_ATTEMPTS:]
        self.progress = None
        self.version += 1

    def end(
        self,
        state: str,
        failure_class: str | None,
        message: str,
        now: float,
        progress: dict[str, Any] | None = None,
    ) -> None:
        """End the running attempt; `progress` is its last `/progress`."""
        self.progress = progress
        if self.attempts:
            attempt = self.attempts[-1]
            attempt.state, attempt.failure_class, attempt.message = state, failure_class, message
            attempt.ended_at = now
            self.version += 1

    def take(self, rank: RankSnapshot) -> None:
        """Take the newest values from the snapshot of rank 0."""
        job = rank.job
        if job is None or not job.total_steps:
            return
        if self._seen != (rank.pid, job.start_step):
            self._seen = (rank.pid, job.start_step)
            self._rewind(job.start_step)
            if self.attempts:
                self.attempts[-1].start_step = job.start_step
            self.version += 1
        if rank.step < max(self.train.last_step, self.validation.last_step):
            self._rewind(rank.step)  # a roll-back
        self._take_values(job, rank.updated_at)
        self._take_events(rank.events)

    def seconds_per_step(self) -> float | None:
        """Return the recent time per step of this attempt, including pauses; None before two points."""
        begun = self._seen[1] if self._seen is not None else 0
        rows = [row for row in self.train.rows[-RECENT_POINTS:] if _step(row) > begun]
        if len(rows) < 2:
            return None
        steps, seconds = _step(rows[-1]) - _step(rows[0]), (rows[-1][1] or 0.0) - (rows[0][1] or 0.0)
        return seconds / steps if seconds > 0 else None

    def document(self) -> dict[str, Any]:
        """Return the history as JSON types."""
        return {
            "format": FORMAT,
            "secondsPerStep": self.seconds_per_step(),
            "train": {"columns": list(self.train.columns), "rows": list(self.train.rows)},
            "charts": [dict(vars(column)) for column in columns(StepMetrics).values() if column.title],
            "validation": {"columns": list(self.validation.columns), "rows": list(self.validation.rows)},
            "events": [dict(vars(event)) for event in self.events],
            "attempts": [dict(vars(attempt)) for attempt in self.attempts],
            "progress": self.progress,
        }

    def _rewind(self, step: int) -> None:
        self.train.rewind(step)
        self.validation.rewind(step)
        self.version += 1

    def _take_values(self, job: JobSnapshot, now: float) -> None:
        if job.metrics is not None and job.logged_step is not None and job.logged_step > self.train.last_step:
            self.train.add([job.logged_step, now, *_values(job.metrics)])
            self.version += 1
        if job.validation_step is not None and job.validation_step > self.validation.last_step:
            self.validation.add([job.validation_step, now, *_values(job.validation)])
            self.version += 1

    def _take_events(self, events: Iterable[JobEvent]) -> None:
        latest = self.events[-1].time if self.events else 0.0
        known = {(event.time, event.message) for event in self.events}
        # Snapshots repeat old events, but new ones always come last.
        new = [event for event in events if event.time >= latest and (event.time, event.message) not in known]
        if new:
            self.events = [*self.events, *new][-MAX_EVENTS:]
            self.version += 1


Kept = TypeVar("Kept", JobEvent, AttemptRecord)


def restored(document: Mapping[str, Any] | None) -> History:
    """Return the history of a stored document; damaged parts are left out."""
    history = History()
    if document is None or document.get("format") != FORMAT:
        return history
    for name, curve in (("train", history.train), ("validation", history.validation)):
        stored = document.get(name)
        if isinstance(stored, dict):
            curve.restore(stored.get("columns"), stored.get("rows"))
    history.events = list(_objects(JobEvent, document.get("events")))[-MAX_EVENTS:]
    history.attempts = list(_objects(AttemptRecord, document.get("attempts")))[-MAX_ATTEMPTS:]
    progress = document.get("progress")
    history.progress = plain_json(progress) if isinstance(progress, dict) else None
    return history


_NUMBERS = frozenset({"time", "number", "started_at"})
_TEXTS = frozenset({"kind", "message"})


def _objects(kind: type[Kept], stored: object) -> Iterator[Kept]:
    """Yield the valid entries: the other code relies on the types of times and texts."""
    names = {entry.name for entry in fields(kind)}
    for entry in stored if isinstance(stored, list) else ():
        if not isinstance(entry, dict) or not entry.keys() <= names:
            continue
        numbers = all(_is_number(entry.get(name)) for name in _NUMBERS & names)
        optional = all(_is_plain(value) for value in entry.values())
        texts = kind is not JobEvent or all(isinstance(entry.get(name), str) for name in _TEXTS)
        if numbers and optional and texts:
            with contextlib.suppress(TypeError):
                yield kind(**entry)


def column_names(kind: type[Any]) -> tuple[str, ...]:
    """Return the columns of the curve that a record of metrics makes."""
    return ("step", "time", *(column.name for column in columns(kind).values()))


def _values(record: StepMetrics | ValidationMetrics) -> list[float | None]:
    return [getattr(record, name) for name in columns(type(record))]


def _step(row: Row) -> float:
    return row[0] or 0.0


def _finite(value: float | None) -> float | None:
    """Round to six significant digits, enough for a chart; None if not finite."""
    if value is None or not math.isfinite(value):
        return None
    return value if abs(value) >= 1e6 or value == int(value) else float(f"{value:.6g}")


def _is_row(row: object, width: int) -> bool:
    return (
        isinstance(row, list)
        and len(row) == width
        and all(value is None or _is_number(value) for value in row)
        and row[0] is not None
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str) or _is_number(value)
