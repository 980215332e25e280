"""The autoencoder as a language model: it writes pieces from latents that are drawn from the prior or given.

Each piece has latents of its own, a function of the seed and the piece's number alone. A piece that has more
bars than latents goes on with new ones under the same global latent.

Shapes: B pieces, T tokens, K bars that have latents, Z width of what the decoder is told.
"""

# ruff: noqa: N803, N806 - names carry shapes
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from aurl_trainer.data.music import Ints
from aurl_trainer.data.vocabulary import BAR
from aurl_trainer.model.latents import LEVELS, Level, silence
from aurl_trainer.model.transformer import KVCache
from aurl_trainer.model.vae import VAE
from aurl_trainer.sampling.draw import uniforms
from aurl_trainer.sampling.generate import LanguageModel

LatentSource = Callable[[int, int], Mapping[Level, Tensor]]
"""The latents (N, Z per level) of a piece's bars from K·part on, by the numbers of the piece and the part."""


@dataclass
class LatentCache:
    """Keys and values of pieces, and which bar each of them is in."""

    kv: KVCache
    pieces: list[int]
    bar_B: Tensor  # noqa: N815
    """Bars that have begun in the whole piece."""


class LatentSampler:
    """What `generate` takes for a language model."""

    def __init__(self, model: VAE, source: LatentSource) -> None:
        self.model, self.source, self.training = model, source, model.training
        self._known: dict[tuple[int, int], Tensor] = {}

    def train(self, mode: bool = True) -> LatentSampler:
        """Switch dropout on or off."""
        self.model.train(mode)
        self.training = mode
        return self

    def parameters(self) -> Iterator[nn.Parameter]:
        """Give the parameters of the model."""
        return self.model.parameters()

    def new_cache(
        self, batch_size: int, max_length: int, device: torch.device | str, dtype: torch.dtype
    ) -> LatentCache:
        """Make an empty cache for the first pieces, which are at their beginning."""
        kv = self.model.decoder.transformer.new_cache(batch_size, max_length, device, dtype)
        bar_B = torch.zeros(batch_size, dtype=torch.int64, device=device)
        return LatentCache(kv, list(range(batch_size)), bar_B)

    def begin(self, cache: LatentCache, pieces: Ints, before: Ints) -> None:
        """Say of which pieces a new cache is, and count the bars before it."""
        cache.pieces = pieces.tolist()
        cache.bar_B += torch.from_numpy((before == BAR).sum(1)).to(cache.bar_B)

    def __call__(self, tokens_BT: Tensor, /, *, cache: Any = None) -> Tensor:
        """Give logits_BTV for tokens that continue what the cache holds."""
        bar_BT = cache.bar_B[:, None] + (tokens_BT == BAR).cumsum(1)
        cache.bar_B = bar_BT[:, -1]
        parts = 1 + int(bar_BT.max()) // self.model.config.latents.bars
        given_BKZ = torch.stack(
            [torch.cat([self._given(piece, part) for part in range(parts)]) for piece in cache.pieces]
        )
        given_BTZ = given_BKZ.gather(1, bar_BT[..., None].expand(-1, -1, given_BKZ.shape[2]))
        return self.model.decoder.proceed(tokens_BT, given_BTZ, cache.kv)

    def _given(self, piece: int, part: int) -> Tensor:
        """Return what the decoder is told of the bars of one part of a piece: (K, Z)."""
        if (piece, part) not in self._known:
            device = next(self.model.parameters()).device
            z = {level: values[None].to(device) for level, values in self.source(piece, part).items()}
            self._known[piece, part] = self.model.decoder.given(z)[0]
        return self._known[piece, part]


class PriorSource:
    """Latents from the prior, with standard deviations multiplied by `spread`."""

    def __init__(self, model: VAE, seed: int, spread: float = 1.0) -> None:
        self.model, self.seed, self.spread = model, seed, spread

    @torch.no_grad()
    def __call__(self, piece: int, part: int) -> dict[Level, Tensor]:
        """Draw the latents of a part of a piece."""
        like = next(self.model.parameters()).new_zeros(1)

        def noise(level: Level, shape: torch.Size) -> Tensor:
            # The sample's latent is that of its first part.
            place = 0 if level == "global" else part
            count = shape.numel()
            key = [self.seed, piece, 1 + LEVELS.index(level), place]
            return (normals(key, count) * self.spread).view(shape).to(like)

        return {level: z[0] for level, z in self.model.prior.draw(like, noise).items()}


class BlendSource:
    """Latents between those of two pieces: the share of the second grows with the number of the piece."""

    def __init__(
        self, first: Mapping[Level, Tensor], second: Mapping[Level, Tensor], shares: Sequence[float]
    ) -> None:
        """`shares` (0 to 1) says how much of `second` each piece has."""
        self.first, self.second, self.shares = first, second, shares

    def __call__(self, piece: int, part: int) -> dict[Level, Tensor]:
        """Mix the latents; every part of a piece has the same."""
        return {level: self.first[level].lerp(self.second[level], self.shares[piece]) for level in LEVELS}


class VariationSource:
    """Latents around those of a piece: mean + spread · σ · noise of the posterior."""

    def __init__(self, model: VAE, tokens_BT: Tensor, seed: int, spread: float) -> None:
        """`tokens_BT` is one sample, at most as long as the model's context."""
        self.model, self.tokens_BT, self.seed, self.spread = model, tokens_BT, seed, spread

    @torch.no_grad()
    def __call__(self, piece: int, part: int) -> dict[Level, Tensor]:
        """Draw the latents of a piece; every part has the same."""

        def noise(level: Level, shape: torch.Size) -> Tensor:
            key = [self.seed, piece, 1 + LEVELS.index(level)]
            return (normals(key, shape.numel()) * self.spread).view(shape).to(self.tokens_BT.device)

        return {level: z[0] for level, z in self.model.infer(self.tokens_BT, noise).z.items()}


def posterior_means(model: VAE, tokens_BT: Tensor) -> dict[Level, Tensor]:
    """Return the latents of one sample, each level at its most likely."""
    with torch.no_grad():
        z = model.infer(tokens_BT, silence(tokens_BT)).z
    return {level: values[0] for level, values in z.items()}


def sampler(model: nn.Module, seed: int) -> LanguageModel:
    """Return what `generate` takes of a trained model: itself, or an autoencoder with its prior."""
    if isinstance(model, VAE):
        return LatentSampler(model, PriorSource(model, seed))
    return cast(LanguageModel, model)


def normals(key: Sequence[int], count: int) -> Tensor:
    """Return standard normal numbers, (count,) fp32: the same for the same arguments on every NumPy."""
    normal: Tensor = torch.special.ndtri(torch.from_numpy(uniforms(key, count, offset=0.5)))
    return normal.float()
