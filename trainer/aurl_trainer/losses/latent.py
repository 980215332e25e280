"""The input of terms over latents, and the terms about the distribution of latents."""

# ruff: noqa: N802, N803, N806 - names carry shapes
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from aurl_trainer.losses.heads import LatentHeads
from aurl_trainer.losses.term import Measured, TermFunction, TokenPass
from aurl_trainer.model.latents import LEVELS, Latents, Level
from aurl_trainer.model.vae import VAE

POINTS: Final = 256
"""Maximum number of latents in terms over pairs; memory grows with its square."""


@dataclass
class LatentPass(TokenPass):
    """A forward pass of the autoencoder over a micro-batch."""

    model: VAE
    latents: Latents
    heads: LatentHeads
    free_bits: float
    decode: Callable[[dict[Level, Tensor]], Tensor]
    """Returns the logits of the same tokens (with the same ones hidden) from other latents."""

    @cached_property
    def conditioning_BKZ(self) -> Tensor:
        """The latents that the decoder is conditioned on in each bar."""
        return self.model.decoder.conditioning(self.latents.z)

    @cached_property
    def present_BK(self) -> Tensor:
        """1 for bars that the sample has; fp32."""
        return self.latents.bars.present_BK.float()

    @cached_property
    def content_BKV(self) -> Tensor:
        """The count of each token in each bar."""
        return self.latents.bars.member_BKT @ F.one_hot(self.inputs_BT, self.tables.size).float()

    def bar_mean(self, values_BK: Tensor) -> Tensor:
        """Return the mean over the existing bars."""
        return (values_BK * self.present_BK).sum() / self.present_BK.sum().clamp(min=1)

    @cached_property
    def points(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A subset of the bars: posterior means, log variances and samples (N, Z), and weights (N,)."""
        bar = self.latents.levels["bar"]
        step = -(-self.present_BK.numel() // POINTS)
        mean, log_variance, z = (values.flatten(0, 1)[::step] for values in (*bar.posterior, bar.z))
        return mean, log_variance, z, self.present_BK.flatten()[::step]


def kl(level: Level, seen: LatentPass) -> Measured:
    """KL of one level from its prior; dimensions below `free_bits` (batch mean) have no gradient."""
    inferred = seen.latents.levels[level]
    present_BN = inferred.present.float()
    count = present_BN.sum()
    nats_BNZ = inferred.posterior.divergence(inferred.prior) * present_BN[..., None]
    nats_Z = nats_BNZ.sum((0, 1)) / count.clamp(min=1)
    return Measured(nats_Z.clamp(min=seen.free_bits).sum() * count, nats_BNZ.sum(), count)


def total_correlation(seen: LatentPass) -> Measured:
    """KL of the aggregate posterior from the product of its marginals, by minibatch-weighted sampling.

    ln q(z) is estimated as ln Σⱼ q(z | xⱼ) / n over the n bars of the batch, likewise each marginal; the
    constants of Chen et al. 2018 that depend only on the size of the data are omitted: they have no gradient.
    """
    mean, log_variance, z, weight = seen.points
    distance = (z[:, None] - mean[None]).square() * (-log_variance[None]).exp()
    density_NNZ = -0.5 * (distance + log_variance[None])
    nowhere = torch.where(weight > 0, 0.0, -1e9)
    joint = (density_NNZ.sum(-1) + nowhere).logsumexp(1)
    marginals = (density_NNZ + nowhere[None, :, None]).logsumexp(1).sum(-1)
    log_count = weight.sum().clamp(min=1).log()
    correlation = joint - log_count - (marginals - z.shape[1] * log_count)
    return Measured.mean((correlation * weight).sum() / weight.sum().clamp(min=1), seen.tokens)


def latent_covariance(seen: LatentPass) -> Measured:
    """Mean squared difference between the covariance of posterior means and the identity."""
    mean, _, _, weight = seen.points
    count = weight.sum().clamp(min=1)
    centred = (mean - (mean * weight[:, None]).sum(0) / count) * weight[:, None]
    covariance = centred.mT @ centred / count
    identity = torch.eye(len(covariance), device=covariance.device)
    return Measured.mean((covariance - identity).square().mean(), seen.tokens)


def aggregate_posterior(seen: LatentPass) -> Measured:
    """MMD² between samples of the bars' posteriors and priors, with the kernel 2Z / (2Z + distance²)."""
    prior = seen.latents.levels["bar"].prior
    _, _, z, weight = seen.points
    step = -(-seen.present_BK.numel() // POINTS)
    other = prior.at(torch.randn_like(prior.mean)).flatten(0, 1)[::step].detach()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        scale = 2.0 * a.shape[1]
        squared = a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * a @ b.mT
        return (scale / (scale + squared.clamp(min=0)) * weight[:, None] * weight[None]).sum()

    discrepancy = (kernel(z, z) + kernel(other, other) - 2 * kernel(z, other)) / weight.sum().square().clamp(
        min=1
    )
    return Measured.mean(discrepancy, seen.tokens)


def latent_smoothness(seen: LatentPass) -> Measured:
    """Mean squared difference of the posterior means of adjacent bars."""
    mean_BKZ = seen.latents.levels["bar"].posterior.mean
    both_BK = seen.present_BK[:, 1:] * seen.present_BK[:, :-1]
    change_BK = (mean_BKZ[:, 1:] - mean_BKZ[:, :-1]).square().mean(-1)
    return Measured.mean((change_BK * both_BK).sum() / both_BK.sum().clamp(min=1), seen.tokens)


FUNCTIONS: Final[dict[str, TermFunction]] = {
    **{f"kl_{level}": partial(kl, level) for level in LEVELS},
    "total_correlation": total_correlation,
    "latent_covariance": latent_covariance,
    "aggregate_posterior": aggregate_posterior,
    "latent_smoothness": latent_smoothness,
}
