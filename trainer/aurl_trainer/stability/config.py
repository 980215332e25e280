"""Configuration of anomaly detection and of the actions taken."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from aurl_trainer.schema import Config, Fraction, OpenFraction, PositiveFraction

Intervals = Annotated[int, Field(ge=0, le=10_000)]


class LossSpikeConfig(Config):
    """LossSpike: the loss is above mean + sigma · standard deviation of recent log intervals."""

    action: Literal["warn", "reduce_learning_rate", "rollback", "stop"] = "rollback"
    """Action once the loss has stayed above the band."""
    intervals: Intervals = 3
    """Consecutive log intervals above the band before the action; the first one only warns. 0: off."""
    sigma: Annotated[float, Field(gt=0, le=1000)] = 6.0
    """Upper edge of the band in standard deviations above the mean; a standard deviation counts as at least 1
    % of the mean."""
    window: Annotated[int, Field(ge=4, le=10_000)] = 20
    """Log intervals within the band from which it is computed; detection starts after half of them."""


class LossDivergenceConfig(Config):
    """LossDivergence: the loss has risen far above its lowest value."""

    action: Literal["warn", "rollback", "stop"] = "rollback"
    """Action to take."""
    intervals: Intervals = 3
    """Consecutive log intervals before the action. 0: off."""
    lost_share: Annotated[float, Field(gt=0, le=10)] = 0.5
    """Fraction of the fall from the first to the lowest loss that must be lost again."""
    min_rise: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Minimum rise above the lowest loss, in nats per token."""


class LossOscillationConfig(Config):
    """LossOscillation: the loss swings up and down between log intervals without falling."""

    action: Literal["warn", "reduce_learning_rate", "stop"] = "warn"
    """Action to take."""
    window: Intervals = 16
    """Log intervals to look at; fewer than 4 count as 4. 0: off."""
    amplitude: Annotated[float, Field(gt=0, le=100)] = 0.25
    """Minimum mean swing, as a fraction of the mean loss."""


class LossPlateauConfig(Config):
    """LossPlateau: the training loss has stopped falling."""

    action: Literal["warn", "reduce_learning_rate", "stop_early"] = "warn"
    """Action to take."""
    window: Annotated[int, Field(ge=0, le=100_000)] = 100
    """Log intervals to look at; fewer than 4 count as 4. 0: off."""
    min_fall: Fraction = 0.002
    """Fraction by which the mean of the window's second half must be below that of its first."""


class GradientVanishingConfig(Config):
    """GradientVanishing: gradients are too small to learn from."""

    action: Literal["warn", "stop"] = "warn"
    """Action to take."""
    intervals: Intervals = 5
    """Consecutive log intervals before the action. 0: off."""
    norm: PositiveFraction = 1e-6
    """Gradient norm of an interval's last step below which it is too small."""


class UnderfittingConfig(Config):
    """Underfitting: late in the job the loss is still close to that of the first step."""

    action: Literal["warn", "stop"] = "warn"
    """Action to take."""
    after: Fraction = 0.5
    """Fraction of the job's steps after which to check, once. 0: off."""
    min_fall: OpenFraction = 0.1
    """Fraction of the first loss by which the loss must have fallen by then."""


class OverfittingConfig(Config):
    """Overfitting: the validation loss rises while the training loss falls."""

    action: Literal["warn", "stop_early"] = "warn"
    """Action to take."""
    evaluations: Intervals = 3
    """Consecutive evaluations before the action. 0: off."""
    rise: Annotated[float, Field(ge=0, le=10)] = 0.02
    """Rise of the validation loss above its lowest value, as a fraction."""


class ThroughputDegradationConfig(Config):
    """ThroughputDegradation: far fewer tokens per second than before. Only warns."""

    intervals: Intervals = 5
    """Consecutive log intervals before the warning. 0: off."""
    share: OpenFraction = 0.5
    """Fraction of the window's median speed below which training counts as slow."""
    window: Annotated[int, Field(ge=4, le=10_000)] = 20
    """Log intervals in the median."""


class DataStarvationConfig(Config):
    """DataStarvation: steps spend much of their time waiting for data. Only warns."""

    intervals: Intervals = 3
    """Consecutive log intervals before the warning. 0: off."""
    share: OpenFraction = 0.5
    """Fraction of an interval spent waiting for data above which to warn."""


class StabilityConfig(Config):
    """Protection against divergence: bad steps are skipped, bad stretches rolled back."""

    spike_sigma: Annotated[float, Field(ge=0, le=1000)] = 6.0
    """Skip a step whose gradient norm is more than this many standard deviations above the mean of the
    window; a standard deviation counts as at least 10 % of the mean. Once such steps outnumber accepted ones
    by 5, longer norms count as normal and a new window starts. 0: skip only non-finite gradients."""
    window: Annotated[int, Field(ge=8, le=65_536)] = 128
    """Accepted steps in the mean and standard deviation of the gradient norm."""
    max_consecutive_skips: Annotated[int, Field(ge=1, le=100_000)] = 20
    """Roll back after this many consecutive skipped steps."""
    max_rollbacks: Annotated[int, Field(ge=0, le=1000)] = 3
    """Number of rollbacks to the last healthy checkpoint, each skipping the data since, before the job fails
    as diverged. 0: fail immediately."""
    learning_rate_factor: PositiveFraction = 0.5
    """Factor that a rollback and the action reduce_learning_rate apply to the learning rate for the rest of
    the job. 1: no change."""
    min_learning_rate_factor: PositiveFraction = 0.05
    """Smallest factor that all of these reductions together may reach."""
    loss_spike: LossSpikeConfig = Field(default_factory=LossSpikeConfig)
    """The loss is above a band around its recent mean."""
    loss_divergence: LossDivergenceConfig = Field(default_factory=LossDivergenceConfig)
    """The loss has risen far above its lowest value."""
    loss_oscillation: LossOscillationConfig = Field(default_factory=LossOscillationConfig)
    """The loss oscillates without falling."""
    loss_plateau: LossPlateauConfig = Field(default_factory=LossPlateauConfig)
    """The training loss has stopped falling."""
    gradient_vanishing: GradientVanishingConfig = Field(default_factory=GradientVanishingConfig)
    """Gradients are too small to learn from."""
    underfitting: UnderfittingConfig = Field(default_factory=UnderfittingConfig)
    """The loss has hardly fallen late in the job."""
    overfitting: OverfittingConfig = Field(default_factory=OverfittingConfig)
    """The validation loss rises while the training loss falls."""
    throughput_degradation: ThroughputDegradationConfig = Field(default_factory=ThroughputDegradationConfig)
    """Training has slowed down."""
    data_starvation: DataStarvationConfig = Field(default_factory=DataStarvationConfig)
    """Steps spend too much time waiting for data."""
