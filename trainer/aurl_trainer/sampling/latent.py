"""The autoencoder as a language model that generates pieces from given latents or from samples of the prior.

Each piece has its own latents, a function of the seed and the number of the piece alone. A piece with more
bars than latents continues with new ones under the same global latent.

Shapes: B pieces, T tokens, K bars with latents, Z width of the decoder's conditioning.
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
"""Maps the numbers of a piece and a part to the latents (N, Z per level) of its bars from K·part on."""


@dataclass
class LatentCache:
    """Keys and values of pieces, and the current bar of each."""

    kv: KVCache
    pieces: list[int]
    bar_B: Tensor  # noqa: N815
    """Number of bars begun since the start of the piece."""


class LatentSampler:
    """An autoencoder with the interface of a LanguageModel."""

    def __init__(self, model: VAE, source: LatentSource) -> None:
        self.model, self.source, self.training = model, source, model.training
        self._known: dict[tuple[int, int], Tensor] = {}

    def train(self, mode: bool = True) -> LatentSampler:
        """Enable or disable dropout."""
        self.model.train(mode)
        self.training = mode
        return self

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters of the model."""
        return self.model.parameters()

    def new_cache(
        self, batch_size: int, max_length: int, device: torch.device | str, dtype: torch.dtype
    ) -> LatentCache:
        """Create an empty cache for pieces 0 to `batch_size` - 1, at their start."""
        kv = self.model.decoder.transformer.new_cache(batch_size, max_length, device, dtype)
        bar_B = torch.zeros(batch_size, dtype=torch.int64, device=device)
        return LatentCache(kv, list(range(batch_size)), bar_B)

    def begin(self, cache: LatentCache, pieces: Ints, before: Ints) -> None:
        """Assign a new cache to `pieces`, and count the bars before it."""
        cache.pieces = pieces.tolist()
        cache.bar_B += torch.from_numpy((before == BAR).sum(1)).to(cache.bar_B)

    def __call__(self, tokens_BT: Tensor, /, *, cache: Any = None) -> Tensor:
        """Return logits_BTV for tokens that continue those in the cache."""
        bar_BT = cache.bar_B[:, None] + (tokens_BT == BAR).cumsum(1)
        cache.bar_B = bar_BT[:, -1]
        parts = 1 + int(bar_BT.max()) // self.model.config.latents.bars
        conditioning_BKZ = torch.stack(
            [torch.cat([self._conditioning(piece, part) for part in range(parts)]) for piece in cache.pieces]
        )
        conditioning_BTZ = conditioning_BKZ.gather(
            1, bar_BT[..., None].expand(-1, -1, conditioning_BKZ.shape[2])
        )
        return self.model.decoder.extend(tokens_BT, conditioning_BTZ, cache.kv)

    def _conditioning(self, piece: int, part: int) -> Tensor:
        """Return the decoder's conditioning for the bars of one part of a piece: (K, Z)."""
        if (piece, part) not in self._known:
            device = next(self.model.parameters()).device
            z = {level: values[None].to(device) for level, values in self.source(piece, part).items()}
            self._known[piece, part] = self.model.decoder.conditioning(z)[0]
        return self._known[piece, part]


class PriorSource:
    """Samples of the prior, with standard deviations multiplied by `spread`."""

    def __init__(self, model: VAE, seed: int, spread: float = 1.0) -> None:
        self.model, self.seed, self.spread = model, seed, spread

    @torch.no_grad()
    def __call__(self, piece: int, part: int) -> dict[Level, Tensor]:
        """Sample the latents of a part of a piece."""
        like = next(self.model.parameters()).new_zeros(1)

        def noise(level: Level, shape: torch.Size) -> Tensor:
            # All parts share the global latent of the first.
            place = 0 if level == "global" else part
            count = shape.numel()
            key = [self.seed, piece, 1 + LEVELS.index(level), place]
            return (normals(key, count) * self.spread).view(shape).to(like)

        return {level: z[0] for level, z in self.model.prior.draw(like, noise).items()}


class BlendSource:
    """Interpolations between the latents of two pieces."""

    def __init__(
        self, first: Mapping[Level, Tensor], second: Mapping[Level, Tensor], shares: Sequence[float]
    ) -> None:
        """Interpolate each piece with its share (0 to 1) of `second`."""
        self.first, self.second, self.shares = first, second, shares

    def __call__(self, piece: int, part: int) -> dict[Level, Tensor]:
        """Return the mixed latents, the same for every part of a piece."""
        return {level: self.first[level].lerp(self.second[level], self.shares[piece]) for level in LEVELS}


class VariationSource:
    """Variations of the latents of a piece: posterior mean + spread · σ · noise."""

    def __init__(self, model: VAE, tokens_BT: Tensor, seed: int, spread: float) -> None:
        """Vary the sample `tokens_BT`, B = 1, at most as long as the model's context."""
        self.model, self.tokens_BT, self.seed, self.spread = model, tokens_BT, seed, spread

    @torch.no_grad()
    def __call__(self, piece: int, part: int) -> dict[Level, Tensor]:
        """Return the varied latents, the same for every part of a piece."""

        def noise(level: Level, shape: torch.Size) -> Tensor:
            key = [self.seed, piece, 1 + LEVELS.index(level)]
            return (normals(key, shape.numel()) * self.spread).view(shape).to(self.tokens_BT.device)

        return {level: z[0] for level, z in self.model.infer(self.tokens_BT, noise).z.items()}


def posterior_means(model: VAE, tokens_BT: Tensor) -> dict[Level, Tensor]:
    """Return the posterior means of the latents of one sample, level by level."""
    with torch.no_grad():
        z = model.infer(tokens_BT, silence(tokens_BT)).z
    return {level: values[0] for level, values in z.items()}


def sampler(model: nn.Module, seed: int) -> LanguageModel:
    """Return the LanguageModel of a trained model: itself, or an autoencoder that samples its prior."""
    if isinstance(model, VAE):
        return LatentSampler(model, PriorSource(model, seed))
    return cast(LanguageModel, model)


def normals(key: Sequence[int], count: int) -> Tensor:
    """Return standard normal numbers, (count,) fp32, that depend on the arguments alone, on every NumPy."""
    normal: Tensor = torch.special.ndtri(torch.from_numpy(uniforms(key, count, offset=0.5)))
    return normal.float()
