"""Findings of detectors, and the evaluations that some of them look at."""

from __future__ import annotations

import math
from dataclasses import dataclass

from aurl_trainer.stability.anomaly import Action, Anomaly


@dataclass(frozen=True)
class EvaluationLosses:
    """The losses at an evaluation in nats per token, the same on all ranks."""

    step: int
    loss: float
    training_loss: float
    """Mean of the last log interval."""


def is_better(loss: float, best: float | None, min_delta: float) -> bool:
    """True if `loss` is finite and a new best: below the old one by more than `min_delta`."""
    return math.isfinite(loss) and (best is None or loss < best - min_delta)


@dataclass(frozen=True)
class Finding:
    """An anomaly and the action to take; `message` is one sentence about what was seen."""

    kind: Anomaly
    action: Action
    message: str
    factor: float | None = None
    """With `reduce_learning_rate`: the factor, if not the configured one."""
    floor: float | None = None
    """With `factor`: the lowest share of the learning rate that remains."""
