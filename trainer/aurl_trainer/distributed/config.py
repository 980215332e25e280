"""How the model is spread over ranks, and how long they wait for each other."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from aurl_trainer.schema import Config


class DistributionConfig(Config):
    """Data parallelism over all ranks of the job; none of it matters to a job of one rank."""

    strategy: Literal["ddp", "fsdp"] = Field(
        default="ddp",
        description="Who holds the weights. ddp (DistributedDataParallel): each rank, all of them. fsdp "
        "(FSDP2, fully_shard): weights, gradients and optimizer are sharded over the ranks, block by "
        "block; for models that do not fit otherwise, as it sends half as much again. Checkpoints are the "
        "same.",
    )
    reshard_after_forward: bool = Field(
        default=True,
        description="With fsdp: free a block's gathered weights between its forward and its backward pass. "
        "false keeps them, over all micro-batches of a step: more memory, less to send.",
    )
    first_step_timeout_seconds: int = Field(
        default=300,
        ge=1,
        le=86_400,
        description="Seconds a rank waits for the others up to the end of the first step: slow starts, "
        "compilation and reading a checkpoint fall into it.",
    )
    timeout_seconds: int = Field(
        default=120,
        ge=1,
        le=86_400,
        description="Seconds a rank waits for the others after the first step; then the job fails as hung. "
        "Give it more than it takes to write or to verify a checkpoint.",
    )
