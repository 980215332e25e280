"""The variational autoencoder of modes `vae` and `vae-gan`: a transformer between hierarchical latents.

    encoder   tokens, both ways → states of tokens → of bars → posteriors of global, phrase and bar latents
    prior     global: N(0, 1); phrase given global; bar given phrase and global
    decoder   causal transformer; the latents of the bar that a token is in are added to the input of each
              block (in-attention conditioning, Wu and Yang 2021, "MuseMorphose")

The posteriors are drawn from the top: each level's is conditioned on the latents drawn above it (ladder VAE,
Sønderby et al. 2016). The bar of a position is counted from the tokens up to it, so that given the latents no
prediction depends on later tokens.

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
"""Posteriors begin narrow, so that the decoder finds the latents useful before KL terms press."""


class Encoder(nn.Module):
    """Tokens to the posterior parameters of each level, given the latents above."""

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
        """Return the states of bars, BKC, from embedded tokens of which `real_BT` are no padding."""
        keys_BT = real_BT.clone()
        keys_BT[:, 0] = True  # a sample of padding alone must see something
        cos, sin = self.rotary(0, x_BTC.shape[1])
        for block in self.blocks:
            x_BTC = block(x_BTC, cos, sin, None, keys_BT)
        x_BKC = bars.mean(self.norm(x_BTC))
        keys_BK = bars.there_BK.clone()
        keys_BK[:, 0] = True
        cos, sin = self.rotary(0, x_BKC.shape[1])
        states_BKC: Tensor = self.bar_norm(self.bar_block(x_BKC, cos, sin, None, keys_BK))
        return states_BKC

    def posterior(
        self, level: Level, states_BKC: Tensor, bars: Bars, above: Mapping[Level, Tensor]
    ) -> Gaussian:
        """Return the posterior of one level, given the drawn latents of the levels above."""
        if level == "global":
            pooled = _mean_of_present(states_BKC, bars.there_BK, states_BKC.shape[1])
            return Gaussian.of(self.to_global(pooled))
        if level == "phrase":
            pooled = _mean_of_present(states_BKC, bars.there_BK, self.config.bars_per_phrase)
            return Gaussian.of(self.to_phrase(_beside(pooled, above["global"])))
        phrase = above["phrase"].repeat_interleave(self.config.bars_per_phrase, 1)
        return Gaussian.of(self.to_bar(_beside(_beside(states_BKC, above["global"]), phrase)))


class Prior(nn.Module):
    """What the latents of a level are like, given those above: the same for every sample at the top."""

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
        """Return the prior of a level; `like` has its batch size and device."""
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
        """Draw latents of all levels from the top, for as many samples as `batch` has rows."""
        z: dict[Level, Tensor] = {}
        for level in LEVELS:
            prior = self(level, z, batch)
            z[level] = prior.at(noise(level, prior.mean.shape))
        return z


class Decoder(nn.Module):
    """A causal transformer that each of whose blocks is told the latents of the token's bar."""

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
        """Return the states_BTC before the output projection; `bars` are those of `tokens_BT`."""
        given_BKZ = self.given(z)
        injected: Iterator[Tensor] = (bars.gather(layer(given_BKZ)) for layer in self.inject)
        return self.transformer.states(tokens_BT, cache, injected)

    def proceed(self, tokens_BT: Tensor, given_BTZ: Tensor, cache: KVCache) -> Tensor:
        """Return the logits_BTV of tokens that continue the cache; `given_BTZ` is what each token is told."""
        return self.logits(
            self.transformer.states(tokens_BT, cache, (layer(given_BTZ) for layer in self.inject))
        )

    def given(self, z: Mapping[Level, Tensor]) -> Tensor:
        """Put the latents of each bar, its phrase and its sample side by side: BKZ."""
        phrase = z["phrase"].repeat_interleave(self.config.bars_per_phrase, 1)
        return _beside(_beside(z["bar"], phrase), z["global"])

    def logits(self, states_BTC: Tensor) -> Tensor:
        """Return logits_BTV of states."""
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
        """Draw all weights anew, as `Transformer.initialise`; the heads of posteriors begin wide awake."""
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
        """Drop activations of encoder and decoder with this probability from now on."""
        self.decoder.transformer.set_dropout(probability)
        for module in self.encoder.modules():
            if isinstance(module, Block):
                module.dropout = probability

    def bars(self, tokens_BT: Tensor) -> Bars:
        """Tell which bar each token is in."""
        return Bars.of(tokens_BT, BAR, PAD, self.config.latents.bars)

    def infer(self, tokens_BT: Tensor, noise: Noise | None = None) -> Latents:
        """Draw the latents of tokens from their posteriors, from the top; `noise` is global by default."""
        bars = self.bars(tokens_BT)
        return self.infer_from(self.encoder(tokens_BT, bars), bars, noise)

    def infer_from(self, states_BKC: Tensor, bars: Bars, noise: Noise | None = None) -> Latents:
        """Do as `infer` from the encoder's states of bars."""
        noise = noise or gaussian_noise(states_BKC)
        levels: dict[Level, Inferred] = {}
        z: dict[Level, Tensor] = {}
        for level in LEVELS:
            posterior = self.encoder.posterior(level, states_BKC, bars, z)
            prior = self.prior(level, z, states_BKC)
            z[level] = posterior.at(noise(level, posterior.mean.shape))
            levels[level] = Inferred(posterior, prior, z[level], self.there(level, bars.there_BK))
        return Latents(levels, bars)

    def there(self, level: Level, there_BK: Tensor) -> Tensor:
        """Return which latents of a level a sample has, (B, N), from the bars that it has."""
        if level == "bar":
            return there_BK
        size = self.config.latents.bars_per_phrase if level == "phrase" else there_BK.shape[1]
        return there_BK.view(len(there_BK), -1, size).any(-1)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return logits_BTV of tokens decoded from their own latents, in evaluation the likeliest ones."""
        latents = self.infer(tokens_BT, None if self.training else silence(tokens_BT))
        return self.decoder.logits(self.decoder(tokens_BT, latents.z, latents.bars))


def _beside(values_BNC: Tensor, one_BGZ: Tensor) -> Tensor:
    """Put what a sample (G = 1) or each of N rows (G = N) has beside N rows of values."""
    one = one_BGZ.expand(-1, values_BNC.shape[1], -1)
    return torch.cat((values_BNC, one.to(values_BNC.dtype)), -1)


def _mean_of_present(states_BKC: Tensor, there_BK: Tensor, size: int) -> Tensor:
    """Return the mean over those of each `size` bars in a row that are there: (B, K / size, C)."""
    B, K, C = states_BKC.shape
    weight = there_BK.to(states_BKC.dtype).view(B, K // size, size, 1)
    total = (states_BKC.view(B, K // size, size, C) * weight).sum(2)
    return total / weight.sum(2).clamp(min=1)
