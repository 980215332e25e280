"""Configuration of saving and retaining checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from aurl_trainer.schema import Config, PositiveSteps, Steps


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

    def _faults(self) -> Iterator[str]:
        if self.retries == 0:
            yield from self.unused("retries 0", "retry_seconds")
