"""Configuration of the models. Imports no torch: the launcher and the schema generator read it too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from aurl_trainer.schema import Config, FractionBelowOne, PositiveFraction


class AttentionConfig(Config):
    """Attention span of the decoder blocks."""

    kind: Literal["full", "local-global"] = "full"
    """full: every block attends to all earlier tokens. local-global: every `globalEvery`-th block does, the
    others attend only to the last `window` tokens; cheaper for long contexts."""
    window: Annotated[int, Field(ge=2, le=1_048_576)] = 128
    """Tokens that a local block attends to, including the current one. Only for local-global."""
    global_every: Annotated[int, Field(ge=1, le=256)] = 4
    """One in this many blocks attends to all earlier tokens. Only for local-global."""

    def _faults(self) -> Iterator[str]:
        if self.kind == "full":
            yield from self.unused("kind full", "window", "global_every")

    def window_of(self, layer: int) -> int:
        """Return the attention window of block `layer` (from 0) in tokens; 0: all earlier tokens."""
        return 0 if self.kind == "full" or (layer + 1) % self.global_every == 0 else self.window


class LatentConfig(Config):
    """Latents of modes vae and vae-gan: one per bar, one per phrase of bars, one per sample."""

    bar_size: Annotated[int, Field(ge=1, le=4096)] = 32
    """Number of dimensions of each bar's latent."""
    phrase_size: Annotated[int, Field(ge=1, le=4096)] = 16
    """Number of dimensions of each phrase's latent."""
    global_size: Annotated[int, Field(ge=1, le=4096)] = 16
    """Number of dimensions of the sample's latent."""
    bars_per_phrase: Annotated[int, Field(ge=1, le=1024)] = 4
    """Number of bars per phrase."""
    bars: Annotated[int, Field(ge=2, le=4096)] = 32
    """Number of bars of a sample with their own latent, including the partial first one; further bars share
    the last one's. A multiple of barsPerPhrase."""
    encoder_layers: Annotated[int, Field(ge=1, le=256)] = 2
    """Encoder blocks over tokens; one block over bars follows."""
    token_dropout: FractionBelowOne = 0.3
    """Probability of hiding an input token from the decoder in training, so that it has to use the latents
    (Bowman et al. 2016)."""

    def _faults(self) -> Iterator[str]:
        if self.bars % self.bars_per_phrase:
            yield (
                f"bars {self.bars} must be a multiple of barsPerPhrase {self.bars_per_phrase}: "
                "phrases are whole"
            )

    @property
    def phrases(self) -> int:
        """Phrases per sample."""
        return self.bars // self.bars_per_phrase

    @property
    def sizes(self) -> dict[Literal["global", "phrase", "bar"], int]:
        """Dimensions of a latent of each level."""
        return {"global": self.global_size, "phrase": self.phrase_size, "bar": self.bar_size}

    @property
    def size(self) -> int:
        """Width of the decoder's input per bar: the latents of bar, phrase and sample."""
        return sum(self.sizes.values())


class CriticConfig(Config):
    """The critic of mode vae-gan and its optimizer."""

    width: Annotated[int, Field(ge=4, le=16384)] = 64
    """Width of the critic's hidden layers, in channels."""
    layers: Annotated[int, Field(ge=1, le=32)] = 2
    """Number of hidden layers per time scale."""
    scales: Annotated[int, Field(ge=1, le=6)] = 3
    """Number of time scales at which decoder states are judged; each averages 4 steps of the previous
    scale."""
    sampled_fraction: PositiveFraction = 0.5
    """Fraction of input tokens replaced by the decoder's own samples, for the states that the critic learns
    to tell from those on real tokens."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 4e-4
    """Peak learning rate of the critic; it follows training.schedule."""
    beta1: FractionBelowOne = 0.0
    """Decay factor of the first moment of the critic's AdamW."""
    beta2: FractionBelowOne = 0.99
    """Decay factor of the second moment of the critic's AdamW."""
    r1_every: Annotated[int, Field(ge=1, le=100_000)] = 16
    """Steps between gradient penalties; each is multiplied by this number (lazy R1, Karras et al. 2020)."""


class ModelConfig(Config):
    """The decoder of every mode: a transformer with pre-norm blocks, rotary positions, causal attention."""

    d_model: Annotated[int, Field(ge=8, le=16384)] = 256
    """Width of the residual stream. A multiple of 2 × heads."""
    layers: Annotated[int, Field(ge=1, le=256)] = 4
    """Transformer blocks."""
    heads: Annotated[int, Field(ge=1, le=256)] = 4
    """Attention heads per block."""
    mlp_ratio: Annotated[float, Field(gt=0, le=16)] = 4.0
    """Hidden width of the feed-forward layers, as a multiple of dModel."""
    dropout: FractionBelowOne = 0.0
    """Dropout probability for the embedding and each residual branch."""
    tie_embeddings: bool = True
    """Use the token embedding as the output projection."""
    rotary_base: Annotated[float, Field(gt=1, le=1e9)] = 10_000.0
    """Base of the rotary position frequencies."""
    attention: AttentionConfig = Field(default_factory=AttentionConfig)
    """Attention span of the blocks."""
    latents: LatentConfig = Field(default_factory=LatentConfig)
    """Latents and encoder. Only for modes vae and vae-gan."""
    critic: CriticConfig = Field(default_factory=CriticConfig)
    """The critic and its optimizer. Only for mode vae-gan."""

    def _faults(self) -> Iterator[str]:
        if self.d_model % (2 * self.heads) != 0:
            yield (
                f"dModel {self.d_model} must be a multiple of 2 × heads = {2 * self.heads}: "
                "each head gets an even share of the width"
            )
        if self.hidden < 1:
            yield (
                f"mlpRatio {self.mlp_ratio} leaves nothing of dModel {self.d_model} for the feed-forward "
                "part: raise it"
            )

    def faults_in(self, mode: str) -> Iterator[str]:
        """Yield a message for each part that has no effect in this mode."""
        if mode == "transformer" and self.latents != LatentConfig():
            yield "model.latents has no effect in mode transformer: leave it out"
        if mode != "vae-gan" and self.critic != CriticConfig():
            yield f"model.critic has no effect in mode {mode}: leave it out"

    @property
    def hidden(self) -> int:
        """Hidden width of the feed-forward layers."""
        return int(self.d_model * self.mlp_ratio)
