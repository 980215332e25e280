"""The snapshot files from ranks to launcher: their fields, and functions that write and read them.

`$AURL_RUN_DIR/rank-<rank>.json` is replaced atomically, so a reader sees the old or the new snapshot. Times
are seconds since the epoch, durations seconds, memory bytes, losses nats per token.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_args

from aurl_trainer.contract import PodState, ProgressKey
from aurl_trainer.metrics import (
    BATCH_SIZE,
    SEQUENCE_LENGTH,
    Counter,
    Gauge,
    Shown,
    SkipReason,
    StepMetrics,
    ValidationMetrics,
)
from aurl_trainer.stability.anomaly import ACTIONS

PHASES = ("init", "restore", "compile", "step", "data_wait", "evaluation", "checkpoint", "sample", "other")
PRODUCTIVE = "step"
"""The phase that is goodput; all others are badput under their own names."""

BADPUT_CAUSES = (
    *(phase for phase in PHASES if phase != PRODUCTIVE),
    "preparation",
    "lost_progress",
    "restart",
)
STATES: Final[tuple[PodState, ...]] = get_args(PodState)
SKIP_REASONS: Final[tuple[SkipReason, ...]] = get_args(SkipReason)
CHECKPOINT_RESULTS = ("saved", "failed", "damaged")
MEMORY_PHASES = (
    "initialise",
    "restore",
    "warm_up",
    "training",
    "forward_backward",
    "optimizer",
    "evaluation",
    "checkpoint",
    "sample",
)


@dataclass
class JobEvent:
    """An event of the job that a person should see."""

    time: float
    kind: str
    step: int | None
    message: str


@dataclass
class CheckpointRecord:
    """The newest committed checkpoint; `path` is relative to the volume."""

    step: Annotated[int, Gauge("checkpoint_step", "Step of the newest checkpoint.")]
    path: str
    time: Annotated[float, Gauge("checkpoint_timestamp_seconds", "Commit time of the newest checkpoint.")]


@dataclass
class JobSnapshot:
    """Values of the whole job, which only rank 0 knows. None: not known (yet)."""

    mode: Annotated[str | None, Shown(progress=ProgressKey.MODE)] = None
    precision: Annotated[str | None, Shown(progress=ProgressKey.PRECISION)] = None
    total_steps: Annotated[
        int | None,
        Shown(
            progress=ProgressKey.TOTAL_STEPS,
            gauge=Gauge("steps_planned", "Optimizer steps planned in total."),
            final=True,
        ),
    ] = None
    start_step: Annotated[int, Shown(progress=ProgressKey.START_STEP)] = 0
    initial_loss: Annotated[float | None, Shown(progress=ProgressKey.INITIAL_LOSS, final=True)] = None
    logged_step: int | None = None
    """Last step of the interval that `metrics` belong to; None after a roll-back."""
    metrics: StepMetrics | None = None
    validation_step: int | None = None
    """Step of the newest evaluation of this attempt; None after a roll-back."""
    validation: ValidationMetrics = field(default_factory=ValidationMetrics)
    evaluation: Annotated[
        dict[str, float],
        Shown(
            progress="evaluation",
            gauge=Gauge("evaluation", "Evaluation metric, including those of user hooks.", "metric"),
        ),
    ] = field(default_factory=dict)
    tokens: Annotated[int, Counter("tokens", "Tokens trained on by this attempt, whole job.")] = 0
    samples: Annotated[int, Counter("samples", "Samples trained on by this attempt, whole job.")] = 0
    tokens_before: int = 0
    compute_seconds: Annotated[
        list[float],
        Shown(
            progress=ProgressKey.COMPUTE_SECONDS,
            gauge=Gauge(
                "compute_seconds",
                "Seconds per step that a rank works on its own (data and forward passes), recent mean.",
                "rank",
            ),
        ),
    ] = field(default_factory=list)
    """By rank; empty for a single rank."""
    sequence_length: Annotated[int | None, SEQUENCE_LENGTH] = None
    batch_size: Annotated[int | None, BATCH_SIZE] = None
    micro_batch_size: Annotated[
        int | None, Gauge("micro_batch_size_samples", "Largest number of samples in one pass of a rank.")
    ] = None
    first_step_at: float | None = None
    last_checkpoint: CheckpointRecord | None = None
    checkpoint_seconds: Annotated[
        float | None, Gauge("checkpoint_save_seconds", "Duration of the newest save.")
    ] = None
    goodput_ratio: Annotated[
        float | None,
        Shown(
            progress="goodputRatio",
            gauge=Gauge("goodput_ratio", "Goodput as a share of the job's wall clock."),
        ),
    ] = None
    goodput_seconds: Annotated[
        float, Gauge("goodput_seconds", "Training time of all attempts, without steps that were lost.")
    ] = 0.0
    badput_seconds: Annotated[
        dict[str, float],
        Gauge("badput_seconds", "Wall-clock time of all attempts that was not training, by cause.", "cause"),
    ] = field(default_factory=lambda: dict.fromkeys(BADPUT_CAUSES, 0.0))
    checkpoints: Annotated[dict[str, int], Counter("checkpoints", "Checkpoints by result.", "result")] = (
        field(default_factory=lambda: dict.fromkeys(CHECKPOINT_RESULTS, 0))
    )
    skipped_steps: Annotated[
        dict[str, int], Counter("skipped_steps", "Steps whose update was skipped, by reason.", "reason")
    ] = field(default_factory=lambda: dict.fromkeys(map(str, SKIP_REASONS), 0))
    rollbacks: Annotated[int, Counter("rollbacks", "Returns to the last healthy checkpoint.")] = 0
    lost_steps: Annotated[int, Counter("lost_steps", "Optimizer steps discarded by roll-backs.")] = 0
    stop_reason: Annotated[str | None, Shown(progress=ProgressKey.STOP_REASON)] = None
    """Why training ended before its last step."""
    anomalies: dict[str, dict[str, int]] = field(
        default_factory=lambda: {str(kind): {str(action): 0 for action in ACTIONS[kind]} for kind in ACTIONS}
    )
    """Count by kind and action."""


@dataclass
class RankSnapshot:
    """One rank's own values, and on rank 0 the job's."""

    rank: int
    local_rank: int
    world_size: int
    pid: int
    state: PodState = "Starting"
    step: int = 0
    started_at: float = 0.0
    updated_at: float = 0.0
    heartbeat_at: float | None = None
    phase: str = "init"
    phase_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    memory: dict[str, int] = field(default_factory=dict)
    memory_phases: dict[str, dict[str, int]] = field(default_factory=dict)
    """Peak bytes by phase (MEMORY_PHASES) and kind (`rss`, `device`)."""
    events: list[JobEvent] = field(default_factory=list)
    job: JobSnapshot | None = None


@dataclass
class PreparationSnapshot:
    """Progress of the preparation of the dataset."""

    started_at: float
    updated_at: float
    state: PodState = "Preparing"
    files_done: int = 0
    files_total: int | None = None
    files_dropped: int = 0
    events: list[JobEvent] = field(default_factory=list)
    dataset: dict[str, Any] | None = None


Snapshot = TypeVar("Snapshot", RankSnapshot, PreparationSnapshot)

_NESTED: dict[str, Any] = {
    "job": JobSnapshot,
    "metrics": StepMetrics,
    "validation": ValidationMetrics,
    "last_checkpoint": CheckpointRecord,
    "events": JobEvent,
}


def rank_file(run_dir: Path, rank: int) -> Path:
    """Return the snapshot file of a rank."""
    return run_dir / f"rank-{rank}.json"


def preparation_file(run_dir: Path) -> Path:
    """Return the snapshot file of the preparation."""
    return run_dir / "prepare.json"


def write_json(path: Path, value: Any) -> None:
    """Atomically replace `path` with `value` as JSON (dataclasses as objects, NaN as Python writes it)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, default=vars), encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in `path`, or None if there is none (missing, damaged, not an object)."""
    with contextlib.suppress(OSError, ValueError):
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return value
    return None


def read_snapshot(path: Path, kind: type[Snapshot]) -> Snapshot | None:
    """Return the snapshot in `path`, or None if it is missing or damaged."""
    value = read_json(path)
    if value is None:
        return None
    try:
        return _build(kind, value)  # type: ignore[no-any-return]
    except (TypeError, ValueError, AttributeError):
        return None


def _build(kind: Any, value: dict[str, Any]) -> Any:
    """Build a dataclass of `kind` from `value`, ignoring unknown keys."""
    known = {entry.name for entry in fields(kind)}
    arguments = {}
    for key, item in value.items():
        if key not in known:
            continue
        nested = _NESTED.get(key)
        if nested is not None and isinstance(item, dict):
            item = _build(nested, item)
        elif nested is not None and isinstance(item, list):
            item = [_build(nested, entry) for entry in item]
        arguments[key] = item
    return kind(**arguments)
