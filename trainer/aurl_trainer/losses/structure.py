"""Terms that make the latents of bars predict the music: tokens, rhythm, density, succession and form."""

# ruff: noqa: N803, N806 - names carry shapes
from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from aurl_trainer.losses.latent import LatentPass
from aurl_trainer.losses.term import Measured, TermFunction


def bar_content(seen: LatentPass) -> Measured:
    """Nats per token of a bar's tokens, in any order, given its latents."""
    log_probability_BKV = seen.heads.predict("bar_content", seen.conditioning_BKZ).log_softmax(-1)
    tokens = seen.content_BKV.sum()
    nats = -(seen.content_BKV * log_probability_BKV).sum()
    return Measured.mean(nats / tokens.clamp(min=1), seen.tokens)


def bar_onsets(seen: LatentPass) -> Measured:
    """Nats per position of predicting whether a bar uses it."""
    present_BKS = (seen.content_BKV[..., seen.tables.tokens("Position")] > 0).float()
    logits_BKS = seen.heads.predict("bar_onsets", seen.conditioning_BKZ)
    nats_BKS = F.binary_cross_entropy_with_logits(logits_BKS, present_BKS, reduction="none")
    return Measured.mean(seen.bar_mean(nats_BKS.mean(-1)), seen.tokens)


def bar_density(seen: LatentPass) -> Measured:
    """Squared error of ln(1 + number of tokens)."""
    true_BK = seen.content_BKV.sum(-1).log1p()
    predicted_BK = seen.heads.predict("bar_density", seen.conditioning_BKZ).squeeze(-1)
    return Measured.mean(seen.bar_mean((predicted_BK - true_BK).square()), seen.tokens)


def bar_prediction(seen: LatentPass) -> Measured:
    """Nats of identifying the latent of the next bar among those of all bars of the batch."""
    z_BKZ = seen.latents.levels["bar"].z
    B, K, Z = z_BKZ.shape
    candidates = z_BKZ.flatten(0, 1)
    guess_BKZ = seen.heads.predict("bar_prediction", z_BKZ[:, :-1])
    score = guess_BKZ.flatten(0, 1) @ candidates.mT / Z**0.5
    score = score + torch.where(seen.present_BK.flatten() > 0, 0.0, -1e9)
    right = torch.arange(B * K, device=score.device).view(B, K)[:, 1:].flatten()
    both = (seen.present_BK[:, 1:] * seen.present_BK[:, :-1]).flatten()
    nats = F.cross_entropy(score, right, reduction="none")
    # Missing pairs may have infinite scores, so mask them instead of multiplying by 0.
    nats = torch.where(both > 0, nats, 0.0)
    return Measured.mean(nats.sum() / both.sum().clamp(min=1), seen.tokens)


def bar_similarity(seen: LatentPass) -> Measured:
    """Mean squared difference of cosine similarities between the bars of a sample."""
    own_BKK = _cosines(seen.latents.levels["bar"].posterior.mean)
    true_BKK = _cosines(seen.content_BKV)
    pair_BKK = seen.present_BK[:, :, None] * seen.present_BK[:, None]
    difference = ((own_BKK - true_BKK).square() * pair_BKK).sum()
    return Measured.mean(difference / pair_BKK.sum().clamp(min=1), seen.tokens)


def _cosines(values_BKC: Tensor) -> Tensor:
    unit_BKC = F.normalize(values_BKC, dim=-1, eps=1e-6)
    return unit_BKC @ unit_BKC.mT


FUNCTIONS: Final[dict[str, TermFunction]] = {
    "bar_content": bar_content,
    "bar_onsets": bar_onsets,
    "bar_density": bar_density,
    "bar_prediction": bar_prediction,
    "bar_similarity": bar_similarity,
}
