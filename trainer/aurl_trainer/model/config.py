"""The size and shape of the models. No torch: the launcher and the operator's schema read this too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from aurl_trainer.schema import Config, refuse_without_effect


class AttentionConfig(Config):
    """Which earlier tokens a block of the decoder looks at."""

    kind: Literal["full", "local-global"] = Field(
        default="full",
        description="full: every block sees all earlier tokens. local-global: most blocks see the last "
        "`window` tokens alone, and every `globalEvery`-th sees all; long contexts then cost less.",
    )
    window: int = Field(
        default=128,
        ge=2,
        le=1_048_576,
        description="Tokens that a local block sees, the current one included; local-global only.",
    )
    global_every: int = Field(
        default=4,
        ge=1,
        le=256,
        description="Every how many blocks one sees all earlier tokens; local-global only.",
    )

    @model_validator(mode="after")
    def _window_is_used(self) -> AttentionConfig:
        if self.kind == "full":
            refuse_without_effect(self, ("window", "global_every"), "kind full")
        return self

    def window_of(self, layer: int) -> int:
        """Return how many tokens block `layer`, counted from 0, sees; 0: all earlier ones."""
        return 0 if self.kind == "full" or (layer + 1) % self.global_every == 0 else self.window


class LatentConfig(Config):
    """The latents of mode vae and vae-gan: one per bar, one per phrase of bars, one for the whole sample."""

    bar_size: int = Field(
        default=32, ge=1, le=4096, description="Number of dimensions of the latent of each bar."
    )
    phrase_size: int = Field(
        default=16, ge=1, le=4096, description="Number of dimensions of each phrase's latent."
    )
    global_size: int = Field(
        default=16, ge=1, le=4096, description="Number of dimensions of the sample's latent."
    )
    bars_per_phrase: int = Field(default=4, ge=1, le=1024, description="Bars that share a phrase's latent.")
    bars: int = Field(
        default=32,
        ge=2,
        le=4096,
        description="Number of bars of a sample that have a latent of their own, the cut first one "
        "included; the last stands for all that follow. A multiple of barsPerPhrase.",
    )
    encoder_layers: int = Field(
        default=2, ge=1, le=256, description="Blocks of the encoder over tokens; one over bars follows."
    )
    token_dropout: float = Field(
        default=0.3,
        ge=0,
        lt=1,
        description="Probability of hiding an input token from the decoder in training, so that it needs "
        "the latents (Bowman et al. 2016).",
    )

    @model_validator(mode="after")
    def _phrases_are_whole(self) -> LatentConfig:
        if self.bars % self.bars_per_phrase:
            raise ValueError(
                f"bars {self.bars} must be a multiple of barsPerPhrase {self.bars_per_phrase}: "
                "phrases are whole"
            )
        return self

    @property
    def phrases(self) -> int:
        """Number of phrases of a sample."""
        return self.bars // self.bars_per_phrase

    @property
    def size(self) -> int:
        """Width of what the decoder is given for each bar: its own latent and those above it."""
        return self.bar_size + self.phrase_size + self.global_size


class CriticConfig(Config):
    """The critic of mode vae-gan, and how it is updated."""

    width: int = Field(
        default=64, ge=4, le=16384, description="Width of the critic's hidden layers, in channels."
    )
    layers: int = Field(default=2, ge=1, le=32, description="Number of hidden layers at each scale.")
    scales: int = Field(
        default=3,
        ge=1,
        le=6,
        description="Time scales that decoder states are judged at; each averages 4 steps of the one before.",
    )
    own_tokens: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Share of the input tokens that are replaced by the decoder's own for the states that "
        "the critic shall tell from those on real tokens.",
    )
    learning_rate: float = Field(
        default=4e-4, gt=0, le=10, description="Peak learning rate of the critic; it follows the schedule."
    )
    beta1: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the first moment that a step of the critic's AdamW keeps.",
    )
    beta2: float = Field(
        default=0.99,
        ge=0,
        lt=1,
        description="Share of the second moment that a step of the critic's AdamW keeps.",
    )
    r1_every: int = Field(
        default=16,
        ge=1,
        le=100_000,
        description="Steps between two gradient penalties, which then count that many times (lazy R1, "
        "Karras et al. 2020).",
    )


class ModelConfig(Config):
    """A transformer: pre-norm blocks, rotary positions, causal attention. The decoder in every mode."""

    d_model: int = Field(
        default=256, ge=8, le=16384, description="Width of the residual stream; a multiple of 2 × heads."
    )
    layers: int = Field(default=4, ge=1, le=256, description="Number of transformer blocks.")
    heads: int = Field(default=4, ge=1, le=256, description="Attention heads per block.")
    mlp_ratio: float = Field(
        default=4.0, gt=0, le=16, description="Hidden width of the feed-forward part, in multiples of dModel."
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Probability of dropping an activation of the embedding and of each residual branch.",
    )
    tie_embeddings: bool = Field(
        default=True, description="Use the token embedding as the output projection too."
    )
    rotary_base: float = Field(
        default=10_000.0, gt=1, le=1e9, description="Base of the rotary position frequencies."
    )
    attention: AttentionConfig = Field(
        default_factory=AttentionConfig, description="Which earlier tokens each block looks at."
    )
    latents: LatentConfig = Field(
        default_factory=LatentConfig, description="Latents and encoder; modes vae and vae-gan only."
    )
    critic: CriticConfig = Field(
        default_factory=CriticConfig, description="The second player; mode vae-gan only."
    )

    @model_validator(mode="after")
    def _widths_fit(self) -> ModelConfig:
        if self.d_model % (2 * self.heads) != 0:
            raise ValueError(
                f"dModel {self.d_model} must be a multiple of 2 × heads = {2 * self.heads}: "
                "each head gets an even share of the width"
            )
        if self.hidden < 1:
            raise ValueError(
                f"mlpRatio {self.mlp_ratio} leaves nothing of dModel {self.d_model} for the feed-forward "
                "part: raise it"
            )
        return self

    def faults(self, mode: str) -> Iterator[str]:
        """Yield which parts have no effect in this mode."""
        if mode == "transformer" and self.latents != LatentConfig():
            yield "model.latents has no effect in mode transformer: leave it out"
        if mode != "vae-gan" and self.critic != CriticConfig():
            yield f"model.critic has no effect in mode {mode}: leave it out"

    @property
    def hidden(self) -> int:
        """Width of the feed-forward part's hidden layer."""
        return int(self.d_model * self.mlp_ratio)
