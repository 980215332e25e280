"""When checkpoints are saved and how many are kept."""

from __future__ import annotations

from pydantic import Field, model_validator

from aurl_trainer.schema import Config, refuse_without_effect


class CheckpointConfig(Config):
    """Saving and retention. One is always saved at the end and on SIGTERM."""

    every_steps: int = Field(
        default=100, ge=1, le=1_000_000_000, description="Optimizer steps between two checkpoints."
    )
    keep_last: int = Field(
        default=3, ge=1, le=10_000, description="Number of newest checkpoints that are kept."
    )
    keep_every_steps: int = Field(
        default=0,
        ge=0,
        le=1_000_000_000,
        description="Checkpoints at multiples of this optimizer step are kept for ever. 0: none.",
    )
    keep_best: int = Field(
        default=1,
        ge=0,
        le=10_000,
        description="Number of checkpoints with the lowest validation loss (with ema: of the average) that "
        "are kept, of those whose step was evaluated. 0: none.",
    )
    retries: int = Field(
        default=3,
        ge=0,
        le=1000,
        description="How often a save that failed (a full disk) is tried again, unless a newer one replaces "
        "it; training goes on meanwhile.",
    )
    retry_seconds: float = Field(
        default=10.0, ge=0, le=3600, description="Seconds between a failed save and its next try."
    )
    asynchronous: bool = Field(
        default=True,
        description="Write in the background while training goes on; false: wait until it is on the disk.",
    )

    @model_validator(mode="after")
    def _retry_seconds_are_used(self) -> CheckpointConfig:
        if self.retries == 0:
            refuse_without_effect(self, ("retry_seconds",), "retries 0")
        return self
