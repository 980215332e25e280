"""The `sample` part of a training configuration: how music is drawn from a model. No torch."""

from __future__ import annotations

from pydantic import Field

from aurl_trainer.schema import Config


class SamplingConfig(Config):
    """How music is drawn from the model. In this order: grammar, temperature, topK, topP, minP."""

    count: int = Field(default=2, ge=0, le=4096, description="Pieces to sample. 0: none.")
    every_steps: int = Field(
        default=0,
        ge=0,
        le=1_000_000_000,
        description="Optimizer steps between two samplings inside the job. 0: only at its end.",
    )
    max_tokens: int = Field(
        default=1024,
        ge=16,
        le=1_000_000,
        description="Longest piece in tokens; it ends earlier where the model ends it.",
    )
    temperature: float = Field(
        default=1.0,
        ge=0,
        le=10,
        description="Divides the logits. Below 1: safer; above 1: wilder; 0: always the likeliest token.",
    )
    top_k: int = Field(
        default=0, ge=0, le=65535, description="Draw from the k likeliest tokens only. 0: off."
    )
    top_p: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description="Draw from the likeliest tokens that together have this probability. 1: off.",
    )
    min_p: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Drop tokens less likely than this share of the likeliest token's probability. 0: off.",
    )
    grammar: bool = Field(
        default=True, description="Allow only tokens that keep the piece readable (syntax, not music theory)."
    )
    batch_size: int = Field(default=16, ge=1, le=4096, description="Pieces sampled side by side.")
    seed: int = Field(
        default=0, ge=0, lt=2**31, description="Seed of the draw; the same seed gives the same bytes."
    )
