"""Consistency terms: latents of intact and corrupted music, and latents of decoded music."""

# ruff: noqa: N806 - names carry shapes
from __future__ import annotations

from typing import Final

import torch
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from aurl_trainer.data.vocabulary import PAD
from aurl_trainer.losses.latent import LatentPass
from aurl_trainer.losses.term import Measured, TermFunction, nll
from aurl_trainer.model.latents import LEVELS

CORRUPTED: Final = 0.2
"""Share of the tokens to hide."""
MARGIN: Final = 0.5
"""Nats per token by which another sample's latents should be worse."""


def corruption_consistency(seen: LatentPass) -> Measured:
    """KL(posterior of corrupted tokens ‖ posterior of intact ones) per dimension, mean over the levels."""
    latents, encoder = seen.latents, seen.model.encoder
    hidden_BT = torch.rand(seen.inputs_BT.shape, device=seen.inputs_BT.device) < CORRUPTED
    corrupted_BT = seen.inputs_BT.masked_fill(hidden_BT, PAD)
    states_BKC = encoder.read(encoder.embedding(corrupted_BT), seen.inputs_BT != PAD, latents.bars)
    nats = states_BKC.new_zeros((), dtype=torch.float32)
    for level in LEVELS:
        inferred = latents.levels[level]
        corrupted = encoder.posterior(level, states_BKC, latents.bars, latents.z)
        present_BN = inferred.present.float()
        nats_BN = corrupted.divergence(inferred.posterior).mean(-1)
        nats = nats + (nats_BN * present_BN).sum() / present_BN.sum().clamp(min=1)
    return Measured.mean(nats / len(LEVELS), seen.tokens)


def cycle_consistency(seen: LatentPass) -> Measured:
    """Squared error of the posterior means of the decoder's expected tokens, mean over the levels."""
    latents, encoder = seen.latents, seen.model.encoder
    expected_BTC = seen.probability_BTV @ encoder.embedding.weight
    first_BTC = encoder.embedding(seen.inputs_BT[:, :1])
    read_BTC = torch.cat((first_BTC, expected_BTC[:, :-1].to(first_BTC.dtype)), 1)
    states_BKC = encoder.read(read_BTC, seen.inputs_BT != PAD, latents.bars)
    error = states_BKC.new_zeros((), dtype=torch.float32)
    for level in LEVELS:
        inferred = latents.levels[level]
        again = encoder.posterior(level, states_BKC, latents.bars, latents.z).mean
        present_BN = inferred.present.float()
        error_BN = (again - inferred.posterior.mean.detach()).square().mean(-1)
        error = error + (error_BN * present_BN).sum() / present_BN.sum().clamp(min=1)
    return Measured.mean(error / len(LEVELS), seen.tokens)


def latent_use(seen: LatentPass) -> Measured:
    """max(0, margin − (nats per token with the next sample's latents − nats with the sample's own))."""
    other = {level: z.roll(1, 0) for level, z in seen.latents.z.items()}
    log_probability_BTV = seen.decode(other).log_softmax(-1)
    gain = seen.mean(nll(log_probability_BTV, seen.safe_targets_BT, seen.valid_BT) - seen.nll_BT)
    return Measured.mean(F.relu(MARGIN - gain), seen.tokens)


FUNCTIONS: Final[dict[str, TermFunction]] = {
    "corruption_consistency": corruption_consistency,
    "cycle_consistency": cycle_consistency,
    "latent_use": latent_use,
}
