"""Configuration of saving and retaining checkpoints."""

from __future__ import annotations

from pydantic import Field, model_validator

from aurl_trainer.schema import Config, refuse_without_effect


class CheckpointConfig(Config):
    """Saving and retention. A checkpoint is always saved at the end and on SIGTERM."""

    every_steps: int = Field(
        default=100, ge=1, le=1_000_000_000, description="Optimizer steps between checkpoints."
    )
    keep_last: int = Field(default=3, ge=1, le=10_000, description="Newest checkpoints to keep.")
    keep_every_steps: int = Field(
        default=0,
        ge=0,
        le=1_000_000_000,
        description="Keep checkpoints at multiples of this optimizer step forever. A multiple of everySteps. "
        "0: none.",
    )
    keep_best: int = Field(
        default=1,
        ge=0,
        le=10_000,
        description="Checkpoints with the lowest validation loss to keep, among evaluated steps (with ema: "
        "the loss of the averaged weights). 0: none.",
    )
    retries: int = Field(
        default=3,
        ge=0,
        le=1000,
        description="Number of retries of a failed save (a full disk, say) unless a newer save replaces it. "
        "Training continues meanwhile.",
    )
    retry_seconds: float = Field(
        default=10.0, ge=0, le=3600, description="Seconds between a failed save and its retry."
    )
    asynchronous: bool = Field(
        default=True,
        description="Write in the background while training continues. false: wait until the checkpoint is "
        "on disk.",
    )

    @model_validator(mode="after")
    def _retry_seconds_are_used(self) -> CheckpointConfig:
        if self.retries == 0:
            refuse_without_effect(self, ("retry_seconds",), "retries 0")
        return self
