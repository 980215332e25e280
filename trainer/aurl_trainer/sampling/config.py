"""The `sample` section of a training configuration. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from aurl_trainer.schema import Config, Fraction, PositiveFraction, Seed, Steps


class SamplingConfig(Config):
    """Sampling from the model. Applied in this order: grammar, temperature, topK, topP, minP."""

    count: Annotated[int, Field(ge=0, le=4096)] = 2
    """Pieces to sample. 0: none."""
    every_steps: Steps = 0
    """Optimizer steps between samplings during training. 0: only at the end."""
    max_tokens: Annotated[int, Field(ge=16, le=1_000_000)] = 1024
    """Maximum length of a piece in tokens; the model may end it earlier."""
    temperature: Annotated[float, Field(ge=0, le=10)] = 1.0
    """Divides the logits. Below 1: more conservative; above 1: more varied; 0: always the most likely
    token."""
    top_k: Annotated[int, Field(ge=0, le=65535)] = 0
    """Sample from the k most likely tokens only. 0: off."""
    top_p: PositiveFraction = 0.95
    """Sample from the most likely tokens that together have this probability. 1: off."""
    min_p: Fraction = 0.0
    """Drop tokens less likely than this fraction of the most likely token's probability. 0: off."""
    grammar: bool = True
    """Allow only tokens that keep the piece well-formed (syntax, not music theory)."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 16
    """Pieces sampled in parallel."""
    seed: Seed = 0
    """Random seed; the same seed gives the same bytes."""
