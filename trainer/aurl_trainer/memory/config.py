"""What training may spend memory on. No torch: the schema generator reads this too."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from aurl_trainer.schema import Config

SegmentName = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_.*]+$")]


class MemoryConfig(Config):
    """Trades computing time for memory; no choice here changes a result."""

    activation_checkpointing: Literal["none", "selective", "full", "auto"] = Field(
        default="none",
        description="What the backward pass computes again instead of keeping it. none: nothing. selective: "
        "all but matrix products and attention. full: everything inside a segment. auto: whichever of them "
        "is measured to train most tokens per second before the first step, among those that fit; decided "
        "once per job and kept in its checkpoints. The weights come out with the same bits whichever it is.",
    )
    segments: list[SegmentName] = Field(
        default_factory=list,
        max_length=1000,
        description="Parts of the model that activationCheckpointing is about, by name, such as `blocks.0` "
        "or `blocks.3.feedForward`; `*` stands for any characters. Left out: every block.",
    )
    snapshot_on_out_of_memory: bool = Field(
        default=False,
        description="When an allocation fails, write what memory held to `memory/` on the volume: the "
        "allocator's history on CUDA, which costs a little speed, else a table of the largest tensors.",
    )

    @model_validator(mode="after")
    def _segments_are_used(self) -> MemoryConfig:
        if self.segments and self.activation_checkpointing == "none":
            raise ValueError(
                "segments says what is computed again, and activationCheckpointing is none: "
                "set it to selective, full or auto, or leave segments out"
            )
        return self
