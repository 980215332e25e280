"""Configuration of activation checkpointing. Imports no torch: the schema generator reads it too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from aurl_trainer.schema import Config

SegmentName = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_.*]+$")]


class MemoryConfig(Config):
    """Trading compute for memory. No setting here changes a result."""

    activation_checkpointing: Literal["none", "selective", "full", "auto"] = "none"
    """Activations that the backward pass recomputes instead of storing. none: nothing. selective: all but
    matrix products and attention. full: everything inside a segment. auto: the fastest of these that fits,
    measured before the first step, decided once per job and kept in its checkpoints. All give bit-identical
    weights."""
    segments: list[SegmentName] = Field(default_factory=list, max_length=1000)
    """Parts of the model to which activationCheckpointing applies, by name, such as `blocks.0` or
    `blocks.3.feedForward`; `*` matches any characters. Unset: every block."""
    snapshot_on_out_of_memory: bool = False
    """When an allocation fails, write a memory snapshot to `memory/` on the volume: on CUDA the allocator's
    history, which costs a little speed, elsewhere a table of the largest tensors."""

    def _faults(self) -> Iterator[str]:
        if self.segments and self.activation_checkpointing == "none":
            yield (
                "segments has no effect with activationCheckpointing none: "
                "set it to selective, full or auto, or leave segments out"
            )
