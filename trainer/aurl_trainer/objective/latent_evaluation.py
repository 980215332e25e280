"""Measures of how much an autoencoder uses its latents, which reveal posterior collapse."""

# ruff: noqa: N806 - names carry shapes
from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Final

import torch
from torch import Tensor

from aurl_trainer.data.loader import IGNORED
from aurl_trainer.distributed.runtime import Distributed
from aurl_trainer.losses.term import nll
from aurl_trainer.model.latents import Inferred, Level, gaussian_noise
from aurl_trainer.model.vae import VAE
from aurl_trainer.objective.objective import MicroBatch

ACTIVE_VARIANCE: Final = 0.01
"""A dimension is active if the variance of its posterior mean over the data is above this (Burda et al.
2016)."""


@torch.no_grad()
def evaluate_latents(
    model: VAE,
    batches: Iterable[MicroBatch],
    distributed: Distributed,
    precision: AbstractContextManager[object],
    seed: int,
) -> dict[str, float]:
    """Return measures over the micro-batches of all ranks; empty without any:

    - `loss`, the negative ELBO; `nll`, with latents drawn from the posteriors; `nll_shuffled`, with those of
      another sample: the same as `nll` if the latents are unused. All in nats per token.
    - per level `kl_…` in nats per latent and `active_units_…`, the number of active dimensions.

    A separate generator draws the latents, the same in each call.
    """
    was_training = model.training
    model.eval()
    device = distributed.device
    generator = torch.Generator(device).manual_seed(seed)
    # Nats, nats with shuffled latents, tokens; on the host, as not every device has float64.
    totals = torch.zeros(3, dtype=torch.float64)
    levels = {level: _LevelStatistics(size) for level, size in model.config.latents.sizes.items()}
    last: dict[Level, Tensor] | None = None
    for inputs_BT, targets_BT in batches:
        valid_BT = (targets_BT != IGNORED).float()
        with precision:
            states_BKC = model.encoder(inputs_BT, bars := model.bars(inputs_BT))
            latents = model.infer_from(states_BKC, bars, gaussian_noise(states_BKC, generator))
            # Latents of the sample before, across micro-batches: of batch size 1 too.
            before = last if last is not None else {level: z[-1:] for level, z in latents.z.items()}
            other = {level: torch.cat((before[level], z[:-1])) for level, z in latents.z.items()}
            last = {level: z[-1:] for level, z in latents.z.items()}
            for place, z in enumerate((latents.z, other)):
                logits_BTV = model.decoder.logits(model.decoder(inputs_BT, z, bars)).float()
                nats_BT = nll(logits_BTV.log_softmax(-1), targets_BT.clamp(min=0), valid_BT)
                totals[place] += nats_BT.sum().cpu()
        totals[2] += valid_BT.sum().cpu()
        for level, statistics in levels.items():
            statistics.add(latents.levels[level])
    model.train(was_training)
    nats, shuffled, tokens = distributed.sum(totals).tolist()
    if not tokens:
        return {}
    measures = {"nll": nats / tokens, "nll_shuffled": shuffled / tokens}
    divergence = 0.0
    for level, statistics in levels.items():
        divergence += statistics.read(distributed, measures, level)
    return {"loss": (nats + divergence) / tokens, **measures}


class _LevelStatistics:
    """Sums over the latents of one level."""

    def __init__(self, size: int) -> None:
        self.sums = torch.zeros(4, size, dtype=torch.float64)  # KL, mean, mean², count

    def add(self, inferred: Inferred) -> None:
        present = inferred.present[..., None].cpu().double()
        mean = inferred.posterior.mean.cpu().double()
        nats = inferred.posterior.divergence(inferred.prior).cpu().double()
        rows = (nats * present, mean * present, mean.square() * present, present.expand_as(mean))
        self.sums += torch.stack([row.sum((0, 1)) for row in rows])

    def read(self, distributed: Distributed, measures: dict[str, float], level: Level) -> float:
        """Add the level's measures and return the KL in nats, summed over latents and dimensions."""
        nats, mean, square, count = distributed.sum(self.sums)
        number = count.clamp(min=1)
        variance = square / number - (mean / number).square()
        total = float(nats.sum())
        measures[f"kl_{level}"] = total / float(number[0])
        measures[f"active_units_{level}"] = float((variance > ACTIVE_VARIANCE).sum())
        return total
