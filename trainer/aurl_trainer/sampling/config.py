"""The `sample` section of a training configuration. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from aurl_trainer.schema import Config


class SamplingConfig(Config):
    """Sampling from the model. Applied in this order: grammar, temperature, topK, topP, minP."""

    count: int = Field(default=2, ge=0, le=4096, description="Pieces to sample. 0: none.")
    every_steps: int = Field(
        default=0,
        ge=0,
        le=1_000_000_000,
        description="Optimizer steps between samplings during training. 0: only at the end.",
    )
    max_tokens: int = Field(
        default=1024,
        ge=16,
        le=1_000_000,
        description="Maximum length of a piece in tokens; the model may end it earlier.",
    )
    temperature: float = Field(
        default=1.0,
        ge=0,
        le=10,
        description="Divides the logits. Below 1: more conservative; above 1: more varied; 0: always the "
        "most likely token.",
    )
    top_k: int = Field(
        default=0, ge=0, le=65535, description="Sample from the k most likely tokens only. 0: off."
    )
    top_p: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description="Sample from the most likely tokens that together have this probability. 1: off.",
    )
    min_p: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Drop tokens less likely than this fraction of the most likely token's probability. "
        "0: off.",
    )
    grammar: bool = Field(
        default=True,
        description="Allow only tokens that keep the piece well-formed (syntax, not music theory).",
    )
    batch_size: int = Field(default=16, ge=1, le=4096, description="Pieces sampled in parallel.")
    seed: int = Field(
        default=0, ge=0, lt=2**31, description="Random seed; the same seed gives the same bytes."
    )
