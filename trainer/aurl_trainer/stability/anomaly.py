"""The closed list of what can go wrong in a training run, and of what the trainer does about it.

The names are public: they are the labels of `aurl_train_anomalies_total`, the kinds of the events in
`/progress` and (the actions) values in the job file. Imports nothing of ours, so that every part can.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Anomaly(StrEnum):
    """What was noticed."""

    GRADIENT_EXPLOSION = "GradientExplosion"
    """The gradient of a step is far longer than those of recent steps."""
    GRADIENT_VANISHING = "GradientVanishing"
    """Gradients are so short that nothing is learned."""
    NON_FINITE = "NonFinite"
    """The gradient of a step holds a NaN or an infinity."""
    LOSS_SPIKE = "LossSpike"
    """The loss is above its band."""
    LOSS_PLATEAU = "LossPlateau"
    """The loss no longer falls."""
    LOSS_OSCILLATION = "LossOscillation"
    """The loss swings up and down without falling."""
    LOSS_DIVERGENCE = "LossDivergence"
    """The loss has lost much of what training had gained."""
    OUT_OF_MEMORY = "OutOfMemory"
    """A pass did not fit into the memory of a device."""
    THROUGHPUT_DEGRADATION = "ThroughputDegradation"
    """Far fewer tokens per second than before."""
    OVERFITTING = "Overfitting"
    """The validation loss rises while the training loss falls."""
    UNDERFITTING = "Underfitting"
    """The loss is still near that of the first step."""
    DATA_STARVATION = "DataStarvation"
    """Steps spend much of their time waiting for data."""


class Action(StrEnum):
    """What is done about it."""

    WARN = "warn"
    """Say it, and go on."""
    SKIP = "skip"
    """Leave the step's update out."""
    ROLLBACK = "rollback"
    """Go back to the last healthy checkpoint and leave out the data since."""
    REDUCE_LEARNING_RATE = "reduce_learning_rate"
    """Go on with a lower learning rate."""
    REDUCE_BATCH_SIZE = "reduce_batch_size"
    """Go on with smaller micro-batches; the global batch stays."""
    STOP_EARLY = "stop_early"
    """End the job now, as succeeded."""
    STOP = "stop"
    """End the job now, as failed, with a reason."""


ACTIONS: Final[Mapping[Anomaly, tuple[Action, ...]]] = {
    Anomaly.GRADIENT_EXPLOSION: (Action.SKIP, Action.ROLLBACK, Action.STOP),
    Anomaly.GRADIENT_VANISHING: (Action.WARN, Action.STOP),
    Anomaly.NON_FINITE: (Action.SKIP, Action.ROLLBACK, Action.STOP),
    Anomaly.LOSS_SPIKE: (Action.WARN, Action.REDUCE_LEARNING_RATE, Action.ROLLBACK, Action.STOP),
    Anomaly.LOSS_PLATEAU: (Action.WARN, Action.REDUCE_LEARNING_RATE, Action.STOP_EARLY),
    Anomaly.LOSS_OSCILLATION: (Action.WARN, Action.REDUCE_LEARNING_RATE, Action.STOP),
    Anomaly.LOSS_DIVERGENCE: (Action.WARN, Action.ROLLBACK, Action.STOP),
    Anomaly.OUT_OF_MEMORY: (Action.REDUCE_BATCH_SIZE, Action.STOP),
    Anomaly.THROUGHPUT_DEGRADATION: (Action.WARN,),
    Anomaly.OVERFITTING: (Action.WARN, Action.STOP_EARLY),
    Anomaly.UNDERFITTING: (Action.WARN, Action.STOP),
    Anomaly.DATA_STARVATION: (Action.WARN,),
}
"""Which actions each anomaly can have: the children that its counter has from the first scrape on."""

SKIPPED: Final[Mapping[str, Anomaly]] = {
    "nonfinite": Anomaly.NON_FINITE,
    "spike": Anomaly.GRADIENT_EXPLOSION,
}
"""Which anomaly each reason for a skipped update is."""
