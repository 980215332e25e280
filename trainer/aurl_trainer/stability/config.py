"""Configuration of anomaly detection and of the actions taken."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from aurl_trainer.schema import Config


class LossSpikeConfig(Config):
    """LossSpike: the loss is above mean + sigma · standard deviation of recent log intervals."""

    action: Literal["warn", "reduce_learning_rate", "rollback", "stop"] = Field(
        default="rollback", description="Action once the loss has stayed above the band."
    )
    intervals: int = Field(
        default=3,
        ge=0,
        le=10_000,
        description="Consecutive log intervals above the band before the action; the first one only warns. "
        "0: off.",
    )
    sigma: float = Field(
        default=6.0,
        gt=0,
        le=1000,
        description="Upper edge of the band in standard deviations above the mean; a standard deviation "
        "counts as at least 1 % of the mean.",
    )
    window: int = Field(
        default=20,
        ge=4,
        le=10_000,
        description="Log intervals within the band from which it is computed; detection starts after half "
        "of them.",
    )


class LossDivergenceConfig(Config):
    """LossDivergence: the loss has risen far above its lowest value."""

    action: Literal["warn", "rollback", "stop"] = Field(default="rollback", description="Action to take.")
    intervals: int = Field(
        default=3, ge=0, le=10_000, description="Consecutive log intervals before the action. 0: off."
    )
    lost_share: float = Field(
        default=0.5,
        gt=0,
        le=10,
        description="Fraction of the fall from the first to the lowest loss that must be lost again.",
    )
    min_rise: float = Field(
        default=1.0, ge=0, le=1000, description="Minimum rise above the lowest loss, in nats per token."
    )


class LossOscillationConfig(Config):
    """LossOscillation: the loss swings up and down between log intervals without falling."""

    action: Literal["warn", "reduce_learning_rate", "stop"] = Field(
        default="warn", description="Action to take."
    )
    window: int = Field(
        default=16, ge=0, le=10_000, description="Log intervals to look at; fewer than 4 count as 4. 0: off."
    )
    amplitude: float = Field(
        default=0.25, gt=0, le=100, description="Minimum mean swing, as a fraction of the mean loss."
    )


class LossPlateauConfig(Config):
    """LossPlateau: the training loss has stopped falling."""

    action: Literal["warn", "reduce_learning_rate", "stop_early"] = Field(
        default="warn", description="Action to take."
    )
    window: int = Field(
        default=100,
        ge=0,
        le=100_000,
        description="Log intervals to look at; fewer than 4 count as 4. 0: off.",
    )
    min_fall: float = Field(
        default=0.002,
        ge=0,
        le=1,
        description="Fraction by which the mean of the window's second half must be below that of its first.",
    )


class GradientVanishingConfig(Config):
    """GradientVanishing: gradients are too small to learn from."""

    action: Literal["warn", "stop"] = Field(default="warn", description="Action to take.")
    intervals: int = Field(
        default=5, ge=0, le=10_000, description="Consecutive log intervals before the action. 0: off."
    )
    norm: float = Field(
        default=1e-6,
        gt=0,
        le=1,
        description="Gradient norm of an interval's last step below which it is too small.",
    )


class UnderfittingConfig(Config):
    """Underfitting: late in the job the loss is still close to that of the first step."""

    action: Literal["warn", "stop"] = Field(default="warn", description="Action to take.")
    after: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Fraction of the job's steps after which to check, once. 0: off.",
    )
    min_fall: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Fraction of the first loss by which the loss must have fallen by then.",
    )


class OverfittingConfig(Config):
    """Overfitting: the validation loss rises while the training loss falls."""

    action: Literal["warn", "stop_early"] = Field(default="warn", description="Action to take.")
    evaluations: int = Field(
        default=3, ge=0, le=10_000, description="Consecutive evaluations before the action. 0: off."
    )
    rise: float = Field(
        default=0.02,
        ge=0,
        le=10,
        description="Rise of the validation loss above its lowest value, as a fraction.",
    )


class ThroughputDegradationConfig(Config):
    """ThroughputDegradation: far fewer tokens per second than before. Only warns."""

    intervals: int = Field(
        default=5, ge=0, le=10_000, description="Consecutive log intervals before the warning. 0: off."
    )
    share: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="Fraction of the window's median speed below which training counts as slow.",
    )
    window: int = Field(default=20, ge=4, le=10_000, description="Log intervals in the median.")


class DataStarvationConfig(Config):
    """DataStarvation: steps spend much of their time waiting for data. Only warns."""

    intervals: int = Field(
        default=3, ge=0, le=10_000, description="Consecutive log intervals before the warning. 0: off."
    )
    share: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="Fraction of an interval spent waiting for data above which to warn.",
    )


class StabilityConfig(Config):
    """Protection against divergence: bad steps are skipped, bad stretches rolled back."""

    spike_sigma: float = Field(
        default=6.0,
        ge=0,
        le=1000,
        description="Skip a step whose gradient norm is more than this many standard deviations above the "
        "mean of the window. 0: skip only non-finite gradients.",
    )
    window: int = Field(
        default=128,
        ge=8,
        le=65_536,
        description="Accepted steps in the mean and standard deviation of the gradient norm.",
    )
    max_consecutive_skips: int = Field(
        default=20,
        ge=1,
        le=100_000,
        description="Roll back after this many consecutive skipped steps.",
    )
    max_rollbacks: int = Field(
        default=3,
        ge=0,
        le=1000,
        description="Number of rollbacks to the last healthy checkpoint, each skipping the data since, "
        "before the job fails as diverged. 0: fail immediately.",
    )
    learning_rate_factor: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Factor that a rollback and the action reduce_learning_rate apply to the learning rate "
        "for the rest of the job. 1: no change.",
    )
    min_learning_rate_factor: float = Field(
        default=0.05,
        gt=0,
        le=1,
        description="Smallest factor that all of these reductions together may reach.",
    )
    loss_spike: LossSpikeConfig = Field(
        default_factory=LossSpikeConfig, description="The loss is above a band around its recent mean."
    )
    loss_divergence: LossDivergenceConfig = Field(
        default_factory=LossDivergenceConfig, description="The loss has risen far above its lowest value."
    )
    loss_oscillation: LossOscillationConfig = Field(
        default_factory=LossOscillationConfig, description="The loss oscillates without falling."
    )
    loss_plateau: LossPlateauConfig = Field(
        default_factory=LossPlateauConfig, description="The training loss has stopped falling."
    )
    gradient_vanishing: GradientVanishingConfig = Field(
        default_factory=GradientVanishingConfig, description="Gradients are too small to learn from."
    )
    underfitting: UnderfittingConfig = Field(
        default_factory=UnderfittingConfig, description="The loss has hardly fallen late in the job."
    )
    overfitting: OverfittingConfig = Field(
        default_factory=OverfittingConfig,
        description="The validation loss rises while the training loss falls.",
    )
    throughput_degradation: ThroughputDegradationConfig = Field(
        default_factory=ThroughputDegradationConfig, description="Training has slowed down."
    )
    data_starvation: DataStarvationConfig = Field(
        default_factory=DataStarvationConfig, description="Steps spend too much time waiting for data."
    )
