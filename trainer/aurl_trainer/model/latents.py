"""Diagonal Gaussians, and the latents of a batch at three levels: bar, phrase and the whole sample.

Shapes: B samples, N latents of a level in a sample (1, phrases or bars), Z dimensions of the level.
"""

# ruff: noqa: N803, N806 - names carry shapes
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

Level = Literal["global", "phrase", "bar"]
LEVELS: Final[tuple[Level, ...]] = ("global", "phrase", "bar")
"""Top-down: each level is conditioned on those before it."""

LOWEST, HIGHEST = -12.0, 6.0
"""Bounds of a log variance, for exp() in half precision."""


class Gaussian(NamedTuple):
    """A diagonal Gaussian: mean and logarithm of the variance, both of shape (B, N, Z), fp32."""

    mean: Tensor
    log_variance: Tensor

    @classmethod
    def of(cls, parameters: Tensor) -> Gaussian:
        """Split the last dimension into mean and log variance, and clamp the latter."""
        mean, log_variance = parameters.float().chunk(2, -1)
        return cls(mean, log_variance.clamp(LOWEST, HIGHEST))

    def at(self, noise: Tensor) -> Tensor:
        """Return mean + σ · noise, the reparametrised sample (Kingma and Welling 2014)."""
        return torch.addcmul(self.mean, noise, (0.5 * self.log_variance).exp())

    def divergence(self, other: Gaussian) -> Tensor:
        """Return KL(self ‖ other) in nats, for each dimension: (B, N, Z)."""
        ratio = self.log_variance - other.log_variance
        distance = (self.mean - other.mean).square() * (-other.log_variance).exp()
        return 0.5 * (ratio.exp() + distance - 1.0 - ratio)


class Noise(Protocol):
    """A source of standard normal numbers."""

    def __call__(self, level: Level, shape: torch.Size) -> Tensor:
        """Return numbers of this shape for a level."""


class Inferred(NamedTuple):
    """The latents of one level, inferred by the encoder."""

    posterior: Gaussian
    prior: Gaussian
    """Conditioned on the sampled latents of the levels above."""
    z: Tensor
    """(B, N, Z), sampled from the posterior."""
    present: Tensor
    """(B, N), True for the bars or phrases that the sample has."""


@dataclass(frozen=True)
class Latents:
    """The latents of all levels for a batch, inferred by the encoder."""

    levels: Mapping[Level, Inferred]
    bars: Bars

    @property
    def z(self) -> dict[Level, Tensor]:
        """The sampled latents by level."""
        return {level: inferred.z for level, inferred in self.levels.items()}


@dataclass(frozen=True)
class Bars:
    """The bar of each token of a batch; each sample has the first few of K bars."""

    index_BT: Tensor  # noqa: N815
    """Number of bars begun up to and including this token, at most K − 1. Depends on the past alone."""
    member_BKT: Tensor  # noqa: N815
    """1 where a token other than padding is in a bar; fp32."""
    present_BK: Tensor  # noqa: N815
    """True for the bars in which the sample has tokens."""

    @classmethod
    def of(cls, tokens_BT: Tensor, bar: int, pad: int, count: int) -> Bars:
        """Number the bars of each sample by its `bar` tokens; `pad` tokens are in no bar."""
        index_BT = (tokens_BT == bar).cumsum(1).clamp(max=count - 1)
        numbers = torch.arange(count, device=tokens_BT.device)
        member_BKT = (index_BT[:, None] == numbers[:, None]) & (tokens_BT != pad)[:, None]
        return cls(index_BT, member_BKT.float(), member_BKT.any(-1))

    def gather(self, values_BKC: Tensor) -> Tensor:
        """Return the values of each token's bar: (B, T, C).

        A product with a one-hot matrix, because `gather` sums its gradients in random order on a GPU.
        """
        count = values_BKC.shape[1]
        numbers = torch.arange(count, device=values_BKC.device)
        chosen_BTK = (self.index_BT[..., None] == numbers).to(values_BKC.dtype)
        return chosen_BTK @ values_BKC

    def mean(self, values_BTC: Tensor) -> Tensor:
        """Return the mean over the tokens of each bar: (B, K, C); 0 for bars without tokens."""
        member_BKT = self.member_BKT.to(values_BTC.dtype)
        return (
            member_BKT @ values_BTC / self.member_BKT.sum(-1, keepdim=True).clamp(min=1).to(values_BTC.dtype)
        )


def gaussian_noise(like: Tensor, generator: torch.Generator | None = None) -> Noise:
    """Return noise on the device of `like`, from `generator` or the device's global one."""

    def draw(level: Level, shape: torch.Size) -> Tensor:
        return torch.randn(shape, device=like.device, dtype=torch.float32, generator=generator)

    return draw


def silence(like: Tensor) -> Noise:
    """Return noise of zeros on the device of `like`, which makes a sample the mean."""
    return lambda level, shape: torch.zeros(shape, device=like.device)
