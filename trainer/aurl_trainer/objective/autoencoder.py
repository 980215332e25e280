"""Modes `vae` and `vae-gan`: tokens to latents and back, alone or against a critic.

The reported loss is the negative ELBO of one draw of the latents, in nats per token: an upper bound of the
cross-entropy that does not depend on the weights of the terms.
"""

# ruff: noqa: N803, N806 - names carry shapes
from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from aurl_trainer.data.vocabulary import PAD
from aurl_trainer.distributed.runtime import Distributed
from aurl_trainer.losses.adversarial import AdversarialPass
from aurl_trainer.losses.heads import LatentHeads
from aurl_trainer.losses.latent import LatentPass
from aurl_trainer.losses.term import TokenTables
from aurl_trainer.losses.weighted import WeightedTerms
from aurl_trainer.model.latents import Latents, Level, gaussian_noise
from aurl_trainer.model.vae import VAE
from aurl_trainer.objective.adversary import Adversary
from aurl_trainer.objective.latent_evaluation import evaluate_latents
from aurl_trainer.objective.objective import Losses, MicroBatch, Objective


class AutoencoderObjective(Objective):
    """The weighted terms of the autoencoder, and those against the critic if there is one."""

    model: VAE

    def __init__(
        self,
        model: VAE,
        terms: WeightedTerms,
        heads: LatentHeads,
        tables: TokenTables,
        seed: int,
        adversary: Adversary | None = None,
    ) -> None:
        model.add_module("terms", terms)
        model.add_module("heads", heads)
        self.model, self.terms, self.adversary, self.seed = model, terms, adversary, seed
        self.network = Autoencoding(model, terms, heads, tables, adversary)

    def losses(self, network: nn.Module, inputs_BT: Tensor, targets_BT: Tensor, step: int) -> Losses:
        """Return the weighted terms, and the negative ELBO."""
        return Losses(*network(inputs_BT, targets_BT, step))

    def evaluate(
        self,
        batches: Iterable[MicroBatch],
        distributed: Distributed,
        precision: AbstractContextManager[object],
    ) -> dict[str, float]:
        """Return the measures of `evaluate_latents`."""
        return evaluate_latents(self.model, batches, distributed, precision, self.seed)


class Autoencoding(nn.Module):
    """Tokens to loss in one forward pass, as DDP needs it."""

    def __init__(
        self,
        model: VAE,
        terms: WeightedTerms,
        heads: LatentHeads,
        tables: TokenTables,
        adversary: Adversary | None,
    ) -> None:
        super().__init__()
        self.model, self.terms, self.heads, self.tables = model, terms, heads, tables
        self.adversary = adversary  # not a module: its weights belong to the other player

    def forward(self, inputs_BT: Tensor, targets_BT: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return the loss of the model and the negative ELBO, both summed over targets."""
        seen = self.look(inputs_BT, targets_BT, step)
        objective = self.terms(seen, step)
        return objective, negative_elbo(seen.nll_BT, seen.latents).detach()

    def look(self, inputs_BT: Tensor, targets_BT: Tensor, step: int) -> LatentPass:
        """Run the model over a micro-batch, and return everything that the terms look at."""
        model, decoder = self.model, self.model.decoder
        latents = model.infer(inputs_BT)
        hidden_BT = self._hidden(inputs_BT)

        def states(tokens_BT: Tensor, z: dict[Level, Tensor], hidden_BT: Tensor) -> Tensor:
            states_BTC: Tensor = decoder(tokens_BT.masked_fill(hidden_BT, PAD), z, latents.bars)
            return states_BTC

        def decode(z: dict[Level, Tensor]) -> Tensor:
            return decoder.logits(states(inputs_BT, z, hidden_BT)).float()

        def again() -> Tensor:
            return decoder.logits(states(inputs_BT, latents.z, self._hidden(inputs_BT))).float()

        states_BTC = states(inputs_BT, latents.z, hidden_BT)
        logits_BTV = decoder.logits(states_BTC).float()
        common = (self.tables, inputs_BT, targets_BT, states_BTC, logits_BTV, again)
        latent = (model, latents, self.heads, self.terms.config.free_bits, decode)
        adversary = self.adversary
        if adversary is None or not (adversary.terms.plays_at(step) or self.terms.plays_at(step)):
            return LatentPass(*common, *latent)
        own_BT = self._own_tokens(inputs_BT, logits_BTV.detach(), adversary.config.sampled_fraction)
        z = {level: drawn.detach() for level, drawn in latents.z.items()}
        seen = AdversarialPass(*common, *latent, adversary.critic, states(own_BT, z, hidden_BT))
        if torch.is_grad_enabled() and adversary.terms.plays_at(step):
            with torch.no_grad():
                prior = model.prior.draw(inputs_BT, gaussian_noise(logits_BTV))
            adversary.batches.append(seen.critic_batch(prior))
        return seen

    def _hidden(self, inputs_BT: Tensor) -> Tensor:
        """Choose the input tokens to hide from the decoder: none except in training."""
        share = self.model.config.latents.token_dropout if self.training else 0.0
        if share == 0:
            return torch.zeros_like(inputs_BT, dtype=torch.bool)
        return torch.rand(inputs_BT.shape, device=inputs_BT.device) < share

    def _own_tokens(self, inputs_BT: Tensor, logits_BTV: Tensor, share: float) -> Tensor:
        """Replace a share of the inputs by tokens drawn from the decoder, in parallel."""
        drawn = torch.multinomial(logits_BTV[:, :-1].flatten(0, 1).softmax(-1), 1)
        drawn_BT = torch.cat((inputs_BT[:, :1], drawn.view(len(inputs_BT), -1)), 1)
        own_BT = torch.rand(inputs_BT.shape, device=inputs_BT.device) < share
        return torch.where(own_BT & (inputs_BT != PAD), drawn_BT, inputs_BT)


def negative_elbo(nll_BT: Tensor, latents: Latents) -> Tensor:
    """Return nats of the targets + KL of all latents, summed over the batch."""
    total = nll_BT.sum()
    for inferred in latents.levels.values():
        nats_BNZ = inferred.posterior.divergence(inferred.prior)
        total = total + (nats_BNZ * inferred.present[..., None]).sum()
    return total
