"""The variational autoencoder of modes `vae` and `vae-gan`: a transformer with hierarchical latents.

    encoder   tokens, both ways → states of tokens → of bars → posteriors of global, phrase and bar latents
    prior     global: N(0, 1); phrase given global; bar given phrase and global
    decoder   causal transformer; projections of the latents of a token's bar are added to the input of each
              block (in-attention conditioning, Wu and Yang 2021, "MuseMorphose")

The latents are sampled top-down: each level is conditioned on the latents sampled above it (ladder VAE,
Sønderby et al. 2016). The bar of a position is counted from the tokens up to it, so that, given the latents,
no prediction depends on later tokens.

Shapes: B samples, T tokens, K bars, P phrases, C model width, V vocabulary.
"""

# ruff: noqa: N803, N806 - names carry shapes
from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from aurl_trainer.data.vocabulary import BAR, PAD
from aurl_trainer.model.config import ModelConfig
from aurl_trainer.model.latents import (
    LEVELS,
    Bars,
    Gaussian,
    Inferred,
    Latents,
    Level,
    Noise,
    gaussian_noise,
    silence,
)
from aurl_trainer.model.transformer import Block, KVCache, Rotary, Transformer, initialise

FIRST_LOG_VARIANCE = -3.0
"""Initial log variance of posteriors, small so that the decoder learns to use latents before KL terms act."""


class Encoder(nn.Module):
    """Maps tokens to the posterior of each level, given the latents above."""

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        latents, width = config.latents, config.d_model
        self.config = latents
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.rotary = Rotary(width // config.heads, config.rotary_base)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(latents.encoder_layers))
        self.norm = nn.LayerNorm(width, bias=False)
        self.bar_block = Block(config, 0)
        self.bar_norm = nn.LayerNorm(width, bias=False)
        above = latents.global_size
        self.to_global = nn.Linear(width, 2 * latents.global_size)
        self.to_phrase = nn.Linear(width + above, 2 * latents.phrase_size)
        self.to_bar = nn.Linear(width + above + latents.phrase_size, 2 * latents.bar_size)

    def forward(self, tokens_BT: Tensor, bars: Bars) -> Tensor:
        """Return the states of bars, BKC."""
        return self.read(self.embedding(tokens_BT), tokens_BT != PAD, bars)

    def read(self, x_BTC: Tensor, real_BT: Tensor, bars: Bars) -> Tensor:
        """Return the states of bars, BKC, from embedded tokens; `real_BT` is False for padding."""
        keys_BT = real_BT.clone()
        keys_BT[:, 0] = True  # a sample of padding alone needs a key
        cos, sin = self.rotary(0, x_BTC.shape[1])
        for block in self.blocks:
            x_BTC = block(x_BTC, cos, sin, None, keys_BT)
        x_BKC = bars.mean(self.norm(x_BTC))
        keys_BK = bars.present_BK.clone()
        keys_BK[:, 0] = True
        cos, sin = self.rotary(0, x_BKC.shape[1])
        states_BKC: Tensor = self.bar_norm(self.bar_block(x_BKC, cos, sin, None, keys_BK))
        return states_BKC

    def posterior(
        self, level: Level, states_BKC: Tensor, bars: Bars, above: Mapping[Level, Tensor]
    ) -> Gaussian:
        """Return the posterior of one level, given the sampled latents of the levels above."""
        if level == "global":
            pooled = _mean_of_present(states_BKC, bars.present_BK, states_BKC.shape[1])
            return Gaussian.of(self.to_global(pooled))
        if level == "phrase":
            pooled = _mean_of_present(states_BKC, bars.present_BK, self.config.bars_per_phrase)
            return Gaussian.of(self.to_phrase(_beside(pooled, above["global"])))
        phrase = above["phrase"].repeat_interleave(self.config.bars_per_phrase, 1)
        return Gaussian.of(self.to_bar(_beside(_beside(states_BKC, above["global"]), phrase)))


class Prior(nn.Module):
    """The distribution of the latents of a level, given those above; the same for all samples at the top."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = latents = config.latents
        self.phrase_place = nn.Embedding(latents.phrases, config.d_model)
        self.phrase_in = nn.Linear(latents.global_size, config.d_model)
        self.phrase_out = nn.Linear(config.d_model, 2 * latents.phrase_size)
        self.bar_place = nn.Embedding(latents.bars_per_phrase, config.d_model)
        self.bar_in = nn.Linear(latents.global_size + latents.phrase_size, config.d_model)
        self.bar_out = nn.Linear(config.d_model, 2 * latents.bar_size)

    def forward(self, level: Level, above: Mapping[Level, Tensor], like: Tensor) -> Gaussian:
        """Return the prior of a level, with the batch size and device of `like`."""
        latents = self.config
        if level == "global":
            zero = torch.zeros(len(like), 1, latents.global_size, device=like.device)
            return Gaussian(zero, zero)
        top_BGZ = above["global"]
        if level == "phrase":
            hidden = self.phrase_in(top_BGZ) + self.phrase_place.weight
            return Gaussian.of(self.phrase_out(F.gelu(hidden)))
        given = _beside(above["phrase"], top_BGZ).repeat_interleave(latents.bars_per_phrase, 1)
        hidden = self.bar_in(given) + self.bar_place.weight.repeat(latents.phrases, 1)
        return Gaussian.of(self.bar_out(F.gelu(hidden)))

    def draw(self, batch: Tensor, noise: Noise) -> dict[Level, Tensor]:
        """Sample the latents of all levels top-down, one set for each row of `batch`."""
        z: dict[Level, Tensor] = {}
        for level in LEVELS:
            prior = self(level, z, batch)
            z[level] = prior.at(noise(level, prior.mean.shape))
        return z


class Decoder(nn.Module):
    """A causal transformer whose blocks are conditioned on the latents of each token's bar."""

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config.latents
        self.transformer = Transformer(config, vocabulary_size)
        self.inject = nn.ModuleList(
            nn.Linear(config.latents.size, config.d_model, bias=False) for _ in range(config.layers)
        )

    def forward(
        self, tokens_BT: Tensor, z: Mapping[Level, Tensor], bars: Bars, cache: KVCache | None = None
    ) -> Tensor:
        """Return the states_BTC before the output projection; `bars` belong to `tokens_BT`."""
        conditioning_BKZ = self.conditioning(z)
        injected: Iterator[Tensor] = (bars.gather(layer(conditioning_BKZ)) for layer in self.inject)
        return self.transformer.states(tokens_BT, cache, injected)

    def extend(self, tokens_BT: Tensor, conditioning_BTZ: Tensor, cache: KVCache) -> Tensor:
        """Return the logits_BTV of tokens that continue the cache, given the conditioning of each token."""
        return self.logits(
            self.transformer.states(tokens_BT, cache, (layer(conditioning_BTZ) for layer in self.inject))
        )

    def conditioning(self, z: Mapping[Level, Tensor]) -> Tensor:
        """Concatenate the latents of each bar, its phrase and its sample: BKZ."""
        phrase = z["phrase"].repeat_interleave(self.config.bars_per_phrase, 1)
        return _beside(_beside(z["bar"], phrase), z["global"])

    def logits(self, states_BTC: Tensor) -> Tensor:
        """Return the logits_BTV of states."""
        logits_BTV: Tensor = self.transformer.head(states_BTC)
        return logits_BTV


class VAE(nn.Module):
    """Encoder, prior and decoder."""

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config, self.vocabulary_size = config, vocabulary_size
        self.encoder = Encoder(config, vocabulary_size)
        self.prior = Prior(config)
        self.decoder = Decoder(config, vocabulary_size)

    def initialise(self, seed: int) -> None:
        """Initialise all weights from `seed`; posteriors start with varied means and a low variance."""
        initialise(self, self.config, seed)
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for head in (self.encoder.to_global, self.encoder.to_phrase, self.encoder.to_bar):
                head.weight.copy_(
                    torch.empty(head.weight.shape).normal_(0.0, head.in_features**-0.5, generator=generator)
                )
                half = len(head.bias) // 2
                head.weight[half:] *= 0.1
                head.bias[half:] = FIRST_LOG_VARIANCE

    def set_dropout(self, probability: float) -> None:
        """Set the dropout probability of encoder and decoder."""
        self.decoder.transformer.set_dropout(probability)
        for module in self.encoder.modules():
            if isinstance(module, Block):
                module.dropout = probability

    def bars(self, tokens_BT: Tensor) -> Bars:
        """Return the bars of tokens."""
        return Bars.of(tokens_BT, BAR, PAD, self.config.latents.bars)

    def infer(self, tokens_BT: Tensor, noise: Noise | None = None) -> Latents:
        """Sample the latents of tokens from their posteriors, top-down; by default with global noise."""
        bars = self.bars(tokens_BT)
        return self.infer_from(self.encoder(tokens_BT, bars), bars, noise)

    def infer_from(self, states_BKC: Tensor, bars: Bars, noise: Noise | None = None) -> Latents:
        """Infer latents from the encoder's states of bars."""
        noise = noise or gaussian_noise(states_BKC)
        levels: dict[Level, Inferred] = {}
        z: dict[Level, Tensor] = {}
        for level in LEVELS:
            posterior = self.encoder.posterior(level, states_BKC, bars, z)
            prior = self.prior(level, z, states_BKC)
            z[level] = posterior.at(noise(level, posterior.mean.shape))
            levels[level] = Inferred(posterior, prior, z[level], self.present(level, bars.present_BK))
        return Latents(levels, bars)

    def present(self, level: Level, present_BK: Tensor) -> Tensor:
        """Return which latents of a level a sample has, (B, N), given its bars."""
        if level == "bar":
            return present_BK
        size = self.config.latents.bars_per_phrase if level == "phrase" else present_BK.shape[1]
        return present_BK.view(len(present_BK), -1, size).any(-1)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return logits_BTV of tokens decoded from their own latents; in evaluation mode from the means."""
        latents = self.infer(tokens_BT, None if self.training else silence(tokens_BT))
        return self.decoder.logits(self.decoder(tokens_BT, latents.z, latents.bars))


def _beside(values_BNC: Tensor, one_BGZ: Tensor) -> Tensor:
    """Concatenate N rows of values with those of a sample (G = 1) or of each row (G = N)."""
    one = one_BGZ.expand(-1, values_BNC.shape[1], -1)
    return torch.cat((values_BNC, one.to(values_BNC.dtype)), -1)


def _mean_of_present(states_BKC: Tensor, present_BK: Tensor, size: int) -> Tensor:
    """Return the mean over the existing bars of each group of `size`: (B, K / size, C)."""
    B, K, C = states_BKC.shape
    weight = present_BK.to(states_BKC.dtype).view(B, K // size, size, 1)
    total = (states_BKC.view(B, K // size, size, C) * weight).sum(2)
    return total / weight.sum(2).clamp(min=1)
