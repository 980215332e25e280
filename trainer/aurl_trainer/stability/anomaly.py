"""All anomalies of a training run, and all actions that the trainer takes.

The names are public: they are the labels of `aurl_train_anomalies_total`, the kinds of the events in
`/progress` and (the actions) values in the job file. Imports none of our modules, so that all can import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Anomaly(StrEnum):
    """An anomaly."""

    GRADIENT_EXPLOSION = "GradientExplosion"
    """The gradient of a step is far longer than those of recent steps."""
    GRADIENT_VANISHING = "GradientVanishing"
    """Gradients are so short that nothing is learned."""
    NON_FINITE = "NonFinite"
    """The gradient of a step has a NaN or an infinity."""
    LOSS_SPIKE = "LossSpike"
    """The loss is above its band."""
    LOSS_PLATEAU = "LossPlateau"
    """The loss has stopped falling."""
    LOSS_OSCILLATION = "LossOscillation"
    """The loss swings up and down without falling."""
    LOSS_DIVERGENCE = "LossDivergence"
    """The loss has risen by much of its fall so far."""
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
    """An action of the trainer."""

    WARN = "warn"
    """Report it and continue."""
    SKIP = "skip"
    """Skip the step's update."""
    ROLLBACK = "rollback"
    """Go back to the last healthy checkpoint and skip the data since."""
    REDUCE_LEARNING_RATE = "reduce_learning_rate"
    """Continue with a lower learning rate."""
    REDUCE_BATCH_SIZE = "reduce_batch_size"
    """Continue with smaller micro-batches; the global batch stays the same."""
    STOP_EARLY = "stop_early"
    """End the job now as succeeded."""
    STOP = "stop"
    """End the job now as failed."""


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
"""The possible actions of each anomaly, and the labels of its counter from the first scrape on."""

SKIPPED: Final[Mapping[str, Anomaly]] = {
    "nonfinite": Anomaly.NON_FINITE,
    "spike": Anomaly.GRADIENT_EXPLOSION,
}
"""Which anomaly each reason for a skipped update is."""
