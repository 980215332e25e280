"""The snapshot files between ranks and launcher: their fields, and how they are written and read.

`$AURL_RUN_DIR/rank-<rank>.json` is replaced atomically, so a reader sees an old or a new snapshot and never a
torn one. Times are seconds since the epoch, durations seconds, memory bytes, losses nats per token.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

from aurl_trainer.contract import PodState
from aurl_trainer.stability.anomaly import ACTIONS

PHASES = ("init", "restore", "compile", "step", "data_wait", "evaluation", "checkpoint", "sample", "other")
STATES: Final[tuple[PodState, ...]] = get_args(PodState)
SKIP_REASONS = ("nonfinite", "spike")
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
MEMORY_KINDS = ("rss", "rss_peak", "device_allocated", "device_reserved", "device_peak")


@dataclass
class Event:
    """Something that a person following the job should see once."""

    time: float
    kind: str
    step: int | None
    message: str


@dataclass
class CheckpointRecord:
    """The newest committed checkpoint; `path` is relative to the volume."""

    step: int
    path: str
    time: float


@dataclass
class JobSnapshot:
    """What holds for the whole job; rank 0 alone knows it. None means not known (yet)."""

    mode: str = ""
    precision: str = ""
    total_steps: int = 0
    start_step: int = 0
    logged_step: int | None = None
    """With which step the log interval ended that the latest values are of."""
    loss: float | None = None
    initial_loss: float | None = None
    validation_step: int | None = None
    """At which step this attempt last evaluated."""
    validation_loss: float | None = None
    ema_validation_loss: float | None = None
    loss_terms: dict[str, float] = field(default_factory=dict)
    loss_components: dict[str, float] = field(default_factory=dict)
    evaluation: dict[str, float] = field(default_factory=dict)
    learning_rate: float | None = None
    gradient_norm: float | None = None
    tokens_per_second: float | None = None
    samples_per_second: float | None = None
    step_seconds: float | None = None
    tokens: int = 0
    samples: int = 0
    tokens_before: int = 0
    compute_seconds: list[float] = field(default_factory=list)
    """What each rank works on its own in a step: waiting for data and the forward passes. Empty if alone."""
    sequence_length: int | None = None
    batch_size: int | None = None
    micro_batch_size: int | None = None
    first_step_at: float | None = None
    last_checkpoint: CheckpointRecord | None = None
    checkpoint_seconds: float | None = None
    mfu: float | None = None
    goodput_ratio: float | None = None
    goodput_seconds: float = 0.0
    badput_seconds: dict[str, float] = field(default_factory=dict)
    checkpoints: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CHECKPOINT_RESULTS, 0))
    skipped_steps: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SKIP_REASONS, 0))
    rollbacks: int = 0
    lost_steps: int = 0
    """Optimizer steps that roll-backs have thrown away."""
    stop_reason: str | None = None
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
    events: list[Event] = field(default_factory=list)
    job: JobSnapshot | None = None


@dataclass
class PreparationSnapshot:
    """How far the preparation of the dataset is."""

    started_at: float
    updated_at: float
    state: PodState = "Preparing"
    files_done: int = 0
    files_total: int | None = None
    files_dropped: int = 0
    events: list[Event] = field(default_factory=list)
    dataset: dict[str, Any] | None = None


Snapshot = TypeVar("Snapshot", RankSnapshot, PreparationSnapshot)

_NESTED: dict[str, Any] = {"job": JobSnapshot, "last_checkpoint": CheckpointRecord, "events": Event}


def rank_file(run_dir: Path, rank: int) -> Path:
    """Where rank `rank` keeps its snapshot."""
    return run_dir / f"rank-{rank}.json"


def preparation_file(run_dir: Path) -> Path:
    """Where the preparation keeps its snapshot."""
    return run_dir / "prepare.json"


def write_json(path: Path, value: Any) -> None:
    """Replace `path` atomically by `value` as JSON (dataclasses as objects, NaN as Python writes it)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, default=vars), encoding="utf-8")
    temporary.replace(path)


def write_snapshot(path: Path, snapshot: RankSnapshot | PreparationSnapshot) -> None:
    """Replace `path` by the snapshot."""
    write_json(path, snapshot)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in `path`, or None when there is none (missing, torn or of another shape)."""
    with contextlib.suppress(OSError, ValueError):
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return value
    return None


def read_snapshot(path: Path, kind: type[Snapshot]) -> Snapshot | None:
    """Return the snapshot in `path`, or None when there is none that can be read."""
    value = read_json(path)
    if value is None:
        return None
    try:
        return _build(kind, value)  # type: ignore[no-any-return]
    except (TypeError, ValueError, AttributeError):
        return None


def _build(kind: Any, value: dict[str, Any]) -> Any:
    """Make a dataclass of `kind` from `value`; keys of another version are left out."""
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
