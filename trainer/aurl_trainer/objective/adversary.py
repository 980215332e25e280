"""The critic of mode `vae-gan`, with its own optimizer, guard and learning rate.

While the model is updated the critic's weights get no gradient, and the critic's batches are detached from
the model: each player's loss moves only its own parameters. The critic computes in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

import torch
from torch import Tensor

from aurl_trainer.distributed.runtime import Distributed
from aurl_trainer.losses.adversarial import CriticBatch, CriticPass
from aurl_trainer.losses.weighted import WeightedTerms
from aurl_trainer.model.config import CriticConfig
from aurl_trainer.model.critic import Critic
from aurl_trainer.optim.adamw import AdamW
from aurl_trainer.optim.guard import UpdateGuard
from aurl_trainer.stability.config import StabilityConfig

EPSILON: Final = 1e-8
_PENALTIES: Final = ("r1_states", "r1_latents")


class Adversary:
    """Collects the critic's batches in the passes of a step, and updates the critic at its end."""

    def __init__(
        self,
        critic: Critic,
        terms: WeightedTerms,
        config: CriticConfig,
        stability: StabilityConfig,
        max_norm: float,
        device: torch.device,
    ) -> None:
        self.critic, self.terms, self.config = critic, terms, config
        self.batches: list[CriticBatch] = []
        critic.requires_grad_(False)
        self.parameters = dict(critic.named_parameters())
        self.optimizer = AdamW(self.parameters, config.beta1, config.beta2, EPSILON)
        self.guard = UpdateGuard(stability, max_norm, scaled=False, device=device)

    def step(self, distributed: Distributed, step: int, rate_share: float) -> None:
        """Update the critic with the batches of this step, identically on all ranks; without any, do nothing.

        `rate_share` is the schedule's learning rate as a share of its peak.
        """
        if not self.batches:
            return
        penalty = float(self.config.r1_every) if step % self.config.r1_every == 0 else 0.0
        factors = dict.fromkeys(_PENALTIES, penalty)
        self.critic.requires_grad_(True)
        for batch in self.batches:
            loss = self.terms(CriticPass(self.critic, batch), step, factors) / len(self.batches)
            torch.autograd.backward(loss)
        self.batches.clear()
        gradients = [cast(Tensor, parameter.grad) for parameter in self.parameters.values()]
        distributed.average(gradients)
        if self.terms.weight_jumps_at(step):
            self.guard.forget_norms()
        divisor, rejected = self.guard.admit(gradients, 1.0, step)
        self.optimizer.step(self.config.learning_rate * rate_share, 0.0, divisor, rejected)
        self.optimizer.zero_grad()
        self.critic.requires_grad_(False)
        self.critic.refresh()

    def tensors(self) -> dict[str, Tensor]:
        """Return what updates change, except for the guard's state, as named tensors (not copies)."""
        own: Mapping[str, Mapping[str, Tensor]] = {
            "weights": self.critic.state_dict(keep_vars=False),
            "optimizer": self.optimizer.tensors(),
        }
        return {f"{part}/{name}": tensor for part, named in own.items() for name, tensor in named.items()}
