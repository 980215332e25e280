"""Reads launchers' reports (GET /progress, termination messages) into the status."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from aurl_operator.api.base import parse_time
from aurl_operator.api.status import Checkpoint, Dataset, JobStatus, Progress
from aurl_operator.api.trainer_contract import (
    FINISHED,
    CheckpointKey,
    ComputeKey,
    DatasetKey,
    ProgressKey,
    TerminationKey,
)
from aurl_operator.core.parsers import dig, integer, mapping, number, text
from aurl_operator.core.podview import PodView

_NAMES_SHOWN: Final = 10
_NAMES_LISTED: Final = 3


@dataclass(frozen=True)
class ComputeTimes:
    """Seconds per step that ranks work by themselves.

    by_rank: of all ranks, or of the slowest ones only, together with the median of all ranks.
    """

    by_rank: Mapping[int, float]
    median: float | None = None


@dataclass(frozen=True)
class ProgressReport:
    """The body of GET /progress of one attempt.

    problem: why the answer could not be read, in words that follow "the answer"; the body is empty then.
    write_interval: seconds for which routine progress may wait before it is written to the status. It grows
    with the number of running jobs, to limit writes.
    """

    body: Mapping[str, Any]
    attempt: int
    read_at: datetime
    write_interval: float = 0.0
    problem: str = ""

    @property
    def step(self) -> int | None:
        """Optimizer steps done."""
        return integer(self.body.get(ProgressKey.STEP))

    @property
    def finished(self) -> bool:
        """True once the training has finished and its launcher is about to exit."""
        return bool(self.body.get(ProgressKey.STATE) == FINISHED)

    def compute_times(self, world_size: int) -> ComputeTimes | None:
        """Return the compute times of the ranks, or None if they are not plausible for this world size."""
        reported = self.body.get(ProgressKey.COMPUTE_SECONDS)
        if isinstance(reported, list):
            found = ComputeTimes({rank: _seconds(value) for rank, value in enumerate(reported)})
            complete = len(reported) == world_size and world_size > 1
        else:
            slowest = mapping(dig(reported, ComputeKey.SLOWEST))
            median = _seconds(dig(reported, ComputeKey.MEDIAN))
            by_rank = {integer(rank, high=world_size - 1): _seconds(value) for rank, value in slowest.items()}
            found = ComputeTimes({rank: value for rank, value in by_rank.items() if rank is not None}, median)
            complete = bool(slowest) and median >= 0 and None not in by_rank
        return found if complete and min(found.by_rank.values()) >= 0 else None


def _seconds(value: object) -> float:
    """Return a number of seconds; -1 if it is not one."""
    seconds = number(value)
    return -1.0 if seconds is None else seconds


def read_progress(body: Mapping[str, Any], before: Progress | None, now: datetime) -> Progress | None:
    """Merge a report into the progress; fields that it lacks keep their value. None: no progress so far.

    A report with an implausible step (negative, or above the total) is ignored.
    """
    step, total = integer(body.get(ProgressKey.STEP)), integer(body.get(ProgressKey.TOTAL_STEPS))
    if step is None or (total is not None and step > total):
        return before
    start = integer(body.get(ProgressKey.START_STEP))
    tokens = number(body.get(ProgressKey.TOKENS_PER_SECOND))
    known: dict[str, Any] = {
        "step": step,
        "total_steps": total,
        "start_step": start,
        "percentage": step * 100 // total if total else None,
        "loss": _rounded(body.get(ProgressKey.LOSS)),
        "initial_loss": _rounded(body.get(ProgressKey.INITIAL_LOSS)),
        "validation_loss": _rounded(body.get(ProgressKey.VALIDATION_LOSS)),
        "tokens_per_second": integer(float(round(tokens))) if tokens is not None else None,
        "samples_per_second": _rounded(body.get(ProgressKey.SAMPLES_PER_SECOND)),
        "first_step_time": parse_time(body.get(ProgressKey.FIRST_STEP_AT)),
        "last_step_time": now if before is None or before.step != step else before.last_step_time,
        "last_updated_time": now,
    }
    update = {key: value for key, value in known.items() if value is not None}
    # The speed of a finished or restarted attempt must not linger as an estimate.
    update["estimated_remaining_seconds"] = _remaining(body, step, total, start)
    return (before or Progress()).model_copy(update=update)


def _rounded(value: object) -> float | None:
    found = number(value)
    return None if found is None else round(found, 4)


def _remaining(body: Mapping[str, Any], step: int, total: int | None, start: int | None) -> int | None:
    """Return the seconds to the last step at the mean speed since the attempt's first step."""
    first = parse_time(body.get(ProgressKey.FIRST_STEP_AT))
    updated = parse_time(body.get(ProgressKey.UPDATED_AT))
    if total is None or start is None or first is None or updated is None:
        return None
    done, seconds = step - start - 1, (updated - first).total_seconds()
    if done <= 0 or seconds <= 0:
        return None
    return integer(float(round((total - step) * seconds / done)))


def read_checkpoint(body: Mapping[str, Any], before: Checkpoint | None) -> Checkpoint | None:
    """Return the newest checkpoint that a report names, or else the one known before."""
    named = body.get(ProgressKey.LAST_CHECKPOINT)
    step = integer(dig(named, CheckpointKey.STEP))
    if step is None:
        return before
    found = Checkpoint(
        step=step,
        path=text(dig(named, CheckpointKey.PATH), 512),
        time=parse_time(dig(named, CheckpointKey.TIME)),
    )
    return before if before == found else found


def read_dataset(report: Mapping[str, Any], spec_hash: str) -> Dataset:
    """Read the dataset from the prepare pod's termination message."""
    body = mapping(report.get(TerminationKey.DATASET))
    names = body.get(DatasetKey.DROPPED_NAMES)
    return Dataset(
        fingerprint=text(body.get(DatasetKey.FINGERPRINT), 128) or None,
        path=text(body.get(DatasetKey.PATH), 512) or None,
        files=integer(body.get(DatasetKey.FILES)),
        dropped=integer(body.get(DatasetKey.DROPPED)),
        dropped_names=[text(n, 256) for n in names[:_NAMES_SHOWN] if text(n)]
        if isinstance(names, list)
        else [],
        train_tokens=integer(body.get(DatasetKey.TRAIN_TOKENS)),
        spec_hash=spec_hash,
    )


def dataset_sentence(dataset: Dataset) -> str:
    """Return a sentence about the files that were prepared and those that were dropped."""
    files = dataset.files if dataset.files is not None else "an unknown number of"
    sentence = f"The dataset is ready: {files} files"
    if dataset.dropped:
        names = ", ".join(dataset.dropped_names[:_NAMES_LISTED])
        more = ", …" if dataset.dropped > _NAMES_LISTED else ""
        sentence += f", {dataset.dropped} dropped ({names}{more})"
    return f"{sentence}."


def apply_report(
    status: JobStatus, report: ProgressReport | None, now: datetime, interval: float
) -> JobStatus:
    """Copy the last poll into the status; routine progress only as often as the intervals allow."""
    if report is None:
        return status
    checkpoint = read_checkpoint(report.body, status.last_checkpoint)
    fresh, known = read_progress(report.body, status.progress, report.read_at), status.progress
    seen = known.last_updated_time if known else None
    due = seen is None or (now - seen).total_seconds() >= 0.8 * max(interval, report.write_interval)
    began = fresh is not None and fresh.first_step_time is not None and not (known and known.first_step_time)
    if checkpoint == status.last_checkpoint and not due and not began:
        return status
    return status.model_copy(update={"progress": fresh, "last_checkpoint": checkpoint})


def apply_termination_reports(status: JobStatus, pods: Iterable[PodView]) -> JobStatus:
    """Copy the termination messages of pods into the status; that of the lowest rank wins."""
    for pod in sorted(pods, key=lambda each: -each.index):
        ended = pod.terminated
        if ended is not None and ended.report and ended.finished_at is not None:
            progress = read_progress(ended.report, status.progress, ended.finished_at)
            checkpoint = read_checkpoint(ended.report, status.last_checkpoint)
            status = status.model_copy(update={"progress": progress, "last_checkpoint": checkpoint})
    return status
