"""When something counts as an anomaly, and what is done about it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from aurl_trainer.schema import Config


class LossSpikeConfig(Config):
    """LossSpike: the loss is above its band, mean + sigma · deviation of recent log intervals."""

    action: Literal["warn", "reduce_learning_rate", "rollback", "stop"] = Field(
        default="rollback", description="What is done once the loss has stayed above its band."
    )
    intervals: int = Field(
        default=3,
        ge=0,
        le=10_000,
        description="Log intervals in a row above the band before the action; a warning before that. 0: off.",
    )
    sigma: float = Field(
        default=6.0,
        gt=0,
        le=1000,
        description="Height of the band in standard deviations, each counted as 1 % of the mean at least.",
    )
    window: int = Field(
        default=20,
        ge=4,
        le=10_000,
        description="Log intervals inside the band that it is taken over; it holds from half of them on.",
    )


class LossDivergenceConfig(Config):
    """LossDivergence: the loss has lost much of what training had gained since the first step."""

    action: Literal["warn", "rollback", "stop"] = Field(default="rollback", description="What is done.")
    intervals: int = Field(
        default=3, ge=0, le=10_000, description="Log intervals in a row before the action. 0: off."
    )
    lost_share: float = Field(
        default=0.5,
        gt=0,
        le=10,
        description="Share of the fall from the first loss to the lowest one that must be lost again.",
    )
    least_rise: float = Field(
        default=1.0, ge=0, le=1000, description="Nats per token above the lowest loss that it takes at least."
    )


class LossOscillationConfig(Config):
    """LossOscillation: the loss swings up and down from one log interval to the next, without falling."""

    action: Literal["warn", "reduce_learning_rate", "stop"] = Field(
        default="warn", description="What is done."
    )
    window: int = Field(
        default=16, ge=0, le=10_000, description="Log intervals that are looked at, at least 4. 0: off."
    )
    amplitude: float = Field(
        default=0.25, gt=0, le=100, description="Mean swing that it takes, as a share of the mean loss."
    )


class LossPlateauConfig(Config):
    """LossPlateau: the training loss no longer falls."""

    action: Literal["warn", "reduce_learning_rate", "stop_early"] = Field(
        default="warn", description="What is done."
    )
    window: int = Field(
        default=100, ge=0, le=100_000, description="Log intervals that are looked at, at least 4. 0: off."
    )
    least_fall: float = Field(
        default=0.002,
        ge=0,
        le=1,
        description="Share by which the mean of the window's second half must be below that of its first.",
    )


class GradientVanishingConfig(Config):
    """GradientVanishing: gradients are so short that nothing is learned."""

    action: Literal["warn", "stop"] = Field(default="warn", description="What is done.")
    intervals: int = Field(
        default=5, ge=0, le=10_000, description="Log intervals in a row before the action. 0: off."
    )
    norm: float = Field(
        default=1e-6, gt=0, le=1, description="Gradient norm of an interval's last step that is too short."
    )


class UnderfittingConfig(Config):
    """Underfitting: late in the job the loss is still near that of the first step."""

    action: Literal["warn", "stop"] = Field(default="warn", description="What is done.")
    after: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of the job's steps after which it is checked, once. 0: off.",
    )
    least_fall: float = Field(
        default=0.1, gt=0, lt=1, description="Share of the first loss that must be gone by then."
    )


class OverfittingConfig(Config):
    """Overfitting: the validation loss rises while the training loss falls."""

    action: Literal["warn", "stop_early"] = Field(default="warn", description="What is done.")
    evaluations: int = Field(
        default=3, ge=0, le=10_000, description="Evaluations in a row before the action. 0: off."
    )
    rise: float = Field(
        default=0.02, ge=0, le=10, description="Share by which the validation loss is above its lowest."
    )


class ThroughputDegradationConfig(Config):
    """ThroughputDegradation: far fewer tokens per second than before; always a warning."""

    intervals: int = Field(default=5, ge=0, le=10_000, description="Log intervals in a row. 0: off.")
    share: float = Field(
        default=0.5, gt=0, lt=1, description="Share of the median speed of the window that is too little."
    )
    window: int = Field(
        default=20, ge=4, le=10_000, description="Log intervals that the median is taken over."
    )


class DataStarvationConfig(Config):
    """DataStarvation: steps spend much of their time waiting for data; always a warning."""

    intervals: int = Field(default=3, ge=0, le=10_000, description="Log intervals in a row. 0: off.")
    share: float = Field(
        default=0.5, gt=0, lt=1, description="Share of an interval's time spent waiting that is too much."
    )


class StabilityConfig(Config):
    """Single bad steps are left out; bad stretches are rolled back, within a budget."""

    spike_sigma: float = Field(
        default=6.0,
        ge=0,
        le=1000,
        description="Leave out a step whose gradient norm is more than this many standard deviations above "
        "the mean of the window. 0: leave out only gradients that are not finite.",
    )
    window: int = Field(
        default=128,
        ge=8,
        le=65_536,
        description="Accepted steps that the mean and deviation of the gradient norm are taken over.",
    )
    max_consecutive_skips: int = Field(
        default=20,
        ge=1,
        le=100_000,
        description="Training is rolled back when this many steps in a row were left out.",
    )
    max_rollbacks: int = Field(
        default=3,
        ge=0,
        le=1000,
        description="How often a job may go back to its last healthy checkpoint, leaving out the data since; "
        "after that it fails as diverged. 0: fail at once.",
    )
    learning_rate_factor: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="What a roll-back and the action reduce_learning_rate multiply the learning rate by, for "
        "the rest of the job. 1: it stays.",
    )
    min_learning_rate_factor: float = Field(
        default=0.05,
        gt=0,
        le=1,
        description="How low all these factors together may bring the learning rate, as a share.",
    )
    loss_spike: LossSpikeConfig = Field(
        default_factory=LossSpikeConfig, description="The loss is above its band."
    )
    loss_divergence: LossDivergenceConfig = Field(
        default_factory=LossDivergenceConfig, description="The loss has lost much of what was gained."
    )
    loss_oscillation: LossOscillationConfig = Field(
        default_factory=LossOscillationConfig, description="The loss swings without falling."
    )
    loss_plateau: LossPlateauConfig = Field(
        default_factory=LossPlateauConfig, description="The training loss no longer falls."
    )
    gradient_vanishing: GradientVanishingConfig = Field(
        default_factory=GradientVanishingConfig, description="Gradients are too short to learn from."
    )
    underfitting: UnderfittingConfig = Field(
        default_factory=UnderfittingConfig, description="The loss has hardly fallen."
    )
    overfitting: OverfittingConfig = Field(
        default_factory=OverfittingConfig, description="The validation loss rises, the training loss falls."
    )
    throughput_degradation: ThroughputDegradationConfig = Field(
        default_factory=ThroughputDegradationConfig, description="Training has become slow."
    )
    data_starvation: DataStarvationConfig = Field(
        default_factory=DataStarvationConfig, description="Steps wait for data."
    )
