"""What detectors look at and what they answer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from aurl_trainer.stability.anomaly import Action, Anomaly


@dataclass(frozen=True)
class Reading:
    """One log interval; all ranks see the same values, but for those that come from the clock."""

    step: int
    """Its last step."""
    loss: float
    """Mean of the interval in nats per token; not finite when a step of it was not."""
    initial_loss: float
    """Loss of the very first step."""
    gradient_norm: float
    """Of the last step, before clipping."""
    sequence_length: int
    skips: int = 0
    """Updates in a row that were left out, up to now."""
    skip_kind: Anomaly = Anomaly.NON_FINITE
    """Why most of the updates of this interval that were left out were."""
    tokens_per_second: float = 0.0
    """From the clock: never decides what is trained."""
    data_wait_share: float = 0.0
    """From the clock: share of the interval's time that was spent waiting for data."""


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
