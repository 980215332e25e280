"""`/progress`: the state of this pod's part of the job as JSON. Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, Literal

from aurl_trainer.launcher.environment import LaunchEnvironment
from aurl_trainer.launcher.rundir import RunDirectory
from aurl_trainer.monitor.snapshot import CheckpointRecord, Event, JobSnapshot

Role = Literal["train", "prepare"]

MAX_EVENTS = 50


def build(
    environment: LaunchEnvironment,
    role: Role,
    seen: RunDirectory,
    *,
    state: str | None,
    started_at: float,
    now: float,
) -> dict[str, Any]:
    """Return the answer of `/progress`; `state` overrides what the ranks say (at the end, on SIGTERM)."""
    job = next((rank.job for rank in seen.ranks.values() if rank.job is not None), None) or JobSnapshot()
    updates = [rank.updated_at for rank in seen.ranks.values()]
    if seen.preparation is not None:
        updates.append(seen.preparation.updated_at)
    return {
        "job": environment.job_name,
        "namespace": environment.namespace,
        "attempt": environment.attempt,
        "nodeRank": environment.node_rank,
        "worldSize": environment.world_size,
        "role": role,
        "mode": job.mode or None,
        "precision": job.precision or None,
        "state": state or current_state(role, seen),
        "step": max((rank.step for rank in seen.ranks.values()), default=0),
        "totalSteps": job.total_steps or None,
        "startStep": job.start_step,
        "loss": finite(job.loss),
        "initialLoss": finite(job.initial_loss),
        "validationLoss": finite(job.validation_loss),
        "validationLossEma": finite(job.ema_validation_loss),
        "lossTerms": {name: finite(value) for name, value in job.loss_terms.items()},
        "evaluation": {name: finite(value) for name, value in job.evaluation.items()},
        "learningRate": finite(job.learning_rate),
        "gradientNorm": finite(job.gradient_norm),
        "tokensPerSecond": finite(job.tokens_per_second),
        "samplesPerSecond": finite(job.samples_per_second),
        "mfu": finite(job.mfu),
        "goodputRatio": finite(job.goodput_ratio),
        "tokensTotal": job.tokens_before + job.tokens,
        "computeSeconds": [finite(seconds) for seconds in job.compute_seconds],
        "lastCheckpoint": _checkpoint(job.last_checkpoint),
        "startedAt": timestamp(started_at),
        "firstStepAt": timestamp(job.first_step_at),
        "updatedAt": timestamp(max(updates, default=None)),
        "heartbeatAgeSeconds": heartbeat_age(seen, now),
        "stopReason": job.stop_reason,
        "preparation": _preparation(seen) if role == "prepare" else None,
        "events": _events(seen),
    }


def current_state(role: Role, seen: RunDirectory) -> str:
    """Return the state of this pod as its first rank (or its preparation) reports it."""
    if role == "prepare":
        return seen.preparation.state if seen.preparation is not None else "Preparing"
    return seen.ranks[min(seen.ranks)].state if seen.ranks else "Starting"


def heartbeat_age(seen: RunDirectory, now: float) -> float | None:
    """Return the age in seconds of the oldest local rank's last step; None before the first."""
    beats = [rank.heartbeat_at for rank in seen.ranks.values() if rank.heartbeat_at is not None]
    return round(max(0.0, now - min(beats)), 3) if beats else None


def timestamp(seconds: float | None) -> str | None:
    """Return epoch seconds as RFC 3339 in UTC with milliseconds."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def finite(value: float | None) -> float | None:
    """Return `value`, or None where JSON has no number for it."""
    return value if value is not None and math.isfinite(value) else None


def plain_json(value: Any) -> Any:
    """Return `value` as fresh JSON types, with None for non-finite numbers."""
    if isinstance(value, dict):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    return finite(value) if isinstance(value, float) else value


def _checkpoint(record: CheckpointRecord | None) -> dict[str, Any] | None:
    if record is None:
        return None
    return {"step": record.step, "path": record.path, "time": timestamp(record.time)}


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
    events: list[Event] = [event for rank in seen.ranks.values() for event in rank.events]
    if seen.preparation is not None:
        events += seen.preparation.events
    events.sort(key=lambda event: event.time)
    return [
        {"time": timestamp(event.time), "kind": event.kind, "step": event.step, "message": event.message}
        for event in events[-MAX_EVENTS:]
    ]
