"""Configuration of saving and retaining checkpoints."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from aurl_trainer.schema import Config, PositiveSteps, Steps, refuse_without_effect


class CheckpointConfig(Config):
    """Saving and retention. A checkpoint is always saved at the end and on SIGTERM."""

    every_steps: PositiveSteps = 100
    """Optimizer steps between checkpoints."""
    keep_last: Annotated[int, Field(ge=1, le=10_000)] = 3
    """Newest checkpoints to keep."""
    keep_every_steps: Steps = 0
    """Keep checkpoints at multiples of this optimizer step forever. A multiple of everySteps. 0: none."""
    keep_best: Annotated[int, Field(ge=0, le=10_000)] = 1
    """Checkpoints with the lowest validation loss to keep, among evaluated steps (with ema: the loss of the
    averaged weights). 0: none."""
    retries: Annotated[int, Field(ge=0, le=1000)] = 3
    """Number of retries of a failed save (a full disk, say) unless a newer save replaces it. Training
    continues meanwhile."""
    retry_seconds: Annotated[float, Field(ge=0, le=3600)] = 10.0
    """Seconds between a failed save and its retry."""
    asynchronous: bool = True
    """Write in the background while training continues. false: wait until the checkpoint is on disk."""

    @model_validator(mode="after")
    def _retry_seconds_are_used(self) -> CheckpointConfig:
        if self.retries == 0:
            refuse_without_effect(self, ("retry_seconds",), "retries 0")
        return self
