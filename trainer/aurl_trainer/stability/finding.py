"""What detectors find, and the evaluations that some of them look at."""

from __future__ import annotations

import math
from dataclasses import dataclass

from aurl_trainer.stability.anomaly import Action, Anomaly


@dataclass(frozen=True)
class Evaluation:
    """One evaluation, in nats per token; all ranks see the same values."""

    step: int
    loss: float
    training_loss: float
    """Mean of the last log interval."""


def is_better(loss: float, best: float | None, min_delta: float) -> bool:
    """Tell whether `loss` is a new best: under the one before by more than `min_delta`, and finite."""
    return math.isfinite(loss) and (best is None or loss < best - min_delta)


@dataclass(frozen=True)
class Finding:
    """An anomaly and what is to be done about it; `message` is one sentence that says what was seen."""

    kind: Anomaly
    action: Action
    message: str
    factor: float | None = None
    """With `reduce_learning_rate`: by what it is multiplied, where that is not the configured factor."""
    floor: float | None = None
    """With `factor`: the lowest share of the learning rate that is left."""
