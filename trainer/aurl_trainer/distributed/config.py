"""Configuration of data parallelism and collective timeouts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from aurl_trainer.schema import Config


class DistributionConfig(Config):
    """Data parallelism over all ranks of the job. No effect on a job with one rank."""

    strategy: Literal["ddp", "fsdp"] = "ddp"
    """ddp (DistributedDataParallel): every rank holds all weights. fsdp (FSDP2, fully_shard): weights,
    gradients and optimizer state are sharded over the ranks, block by block; for models that do not fit
    otherwise, at half as much communication again. Checkpoints are interchangeable."""
    reshard_after_forward: bool = True
    """With fsdp: free a block's gathered weights between its forward and backward passes. false: keep them
    for all micro-batches of a step (more memory, less communication)."""
    first_step_timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] = 300
    """Seconds a rank waits for the others until the end of the first step, which includes slow starts,
    compilation and loading a checkpoint."""
    timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] = 120
    """Seconds a rank waits for the others after the first step before the job fails as hung. Must exceed the
    time to write or verify a checkpoint; sampling in rank 0 may take longer."""
