"""Builds the answer of `/progress`: the state of the job as this pod knows it. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from statistics import median
from typing import Any

from aurl_trainer import logs
from aurl_trainer.contract import CheckpointKey, ComputeKey, LaunchRole, ProgressKey
from aurl_trainer.launcher.environment import LaunchEnvironment
from aurl_trainer.launcher.rundir import RunDirectory
from aurl_trainer.metrics import StepMetrics, ValidationMetrics, finite, progress_values
from aurl_trainer.monitor.snapshot import CheckpointRecord, JobEvent, JobSnapshot

MAX_EVENTS = 50
#: Above this number of ranks only the slowest ones are reported: the operator reads at most 64 KiB.
MAX_RANKS = 256
SLOWEST_RANKS = 32


def build(
    environment: LaunchEnvironment,
    role: LaunchRole,
    seen: RunDirectory,
    *,
    state: str | None,
    started_at: float,
    now: float,
) -> dict[str, Any]:
    """Return the answer of `/progress`; `state` overrides the ranks' (at the end, after SIGTERM)."""
    job = next((rank.job for rank in seen.ranks.values() if rank.job is not None), None) or JobSnapshot()
    updates = [rank.updated_at for rank in seen.ranks.values()]
    if seen.preparation is not None:
        updates.append(seen.preparation.updated_at)
    return {
        ProgressKey.JOB: environment.job_name,
        ProgressKey.NAMESPACE: environment.namespace,
        ProgressKey.ATTEMPT: environment.attempt,
        ProgressKey.NODE_RANK: environment.node_rank,
        ProgressKey.WORLD_SIZE: environment.world_size,
        ProgressKey.ROLE: role,
        ProgressKey.STATE: state or current_state(role, seen),
        ProgressKey.STEP: max((rank.step for rank in seen.ranks.values()), default=0),
        **plain_json(progress_values(JobSnapshot, job)),
        **plain_json(progress_values(ValidationMetrics, job.validation)),
        **plain_json(progress_values(StepMetrics, job.metrics)),
        ProgressKey.COMPUTE_SECONDS: compute_seconds(job.compute_seconds),
        ProgressKey.TOKENS_TOTAL: job.tokens_before + job.tokens,
        ProgressKey.LAST_CHECKPOINT: _checkpoint(job.last_checkpoint),
        ProgressKey.STARTED_AT: timestamp(started_at),
        ProgressKey.FIRST_STEP_AT: timestamp(job.first_step_at),
        ProgressKey.UPDATED_AT: timestamp(max(updates, default=None)),
        ProgressKey.HEARTBEAT_AGE_SECONDS: heartbeat_age(seen, now),
        ProgressKey.PREPARATION: _preparation(seen) if role == "prepare" else None,
        ProgressKey.EVENTS: _events(seen),
    }


def current_state(role: LaunchRole, seen: RunDirectory) -> str:
    """Return the state of this pod as its first rank (or its preparation) reports it."""
    if role == "prepare":
        return seen.preparation.state if seen.preparation is not None else "Preparing"
    return seen.ranks[min(seen.ranks)].state if seen.ranks else "Starting"


def heartbeat_age(seen: RunDirectory, now: float) -> float | None:
    """Return the age in seconds of the oldest local rank's last step; None before the first."""
    beats = [rank.heartbeat_at for rank in seen.ranks.values() if rank.heartbeat_at is not None]
    return round(max(0.0, now - min(beats)), 3) if beats else None


def compute_seconds(by_rank: Sequence[float]) -> list[float | None] | dict[str, Any]:
    """Return the compute times by rank, in four digits; of many ranks, the median and the slowest ranks."""
    times = [plain_json(float(f"{seconds:.4g}")) for seconds in by_rank]
    if len(times) <= MAX_RANKS:
        return times
    slowest = heapq.nlargest(SLOWEST_RANKS, range(len(times)), key=lambda rank: times[rank] or 0.0)
    return {
        ComputeKey.MEDIAN: median(seconds or 0.0 for seconds in times),
        ComputeKey.SLOWEST: {str(rank): times[rank] for rank in slowest},
    }


def timestamp(seconds: float | None) -> str | None:
    """Return epoch seconds as RFC 3339 in UTC with milliseconds."""
    return None if seconds is None else logs.timestamp(seconds)


def plain_json(value: Any) -> Any:
    """Return a copy of `value` in JSON types, with None for numbers that are not finite."""
    if isinstance(value, dict):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    return finite(value) if isinstance(value, float) else value


def _checkpoint(record: CheckpointRecord | None) -> dict[str, Any] | None:
    if record is None:
        return None
    return {
        CheckpointKey.STEP: record.step,
        CheckpointKey.PATH: record.path,
        CheckpointKey.TIME: timestamp(record.time),
    }


def _preparation(seen: RunDirectory) -> dict[str, Any] | None:
    preparation = seen.preparation
    if preparation is None:
        return None
    return {
        "filesDone": preparation.files_done,
        "filesTotal": preparation.files_total,
        "filesDropped": preparation.files_dropped,
        "dataset": preparation.dataset,
    }


def _events(seen: RunDirectory) -> list[dict[str, Any]]:
    events: list[JobEvent] = [event for rank in seen.ranks.values() for event in rank.events]
    if seen.preparation is not None:
        events += seen.preparation.events
    events.sort(key=lambda event: event.time)
    return [
        {"time": timestamp(event.time), "kind": event.kind, "step": event.step, "message": event.message}
        for event in events[-MAX_EVENTS:]
    ]
