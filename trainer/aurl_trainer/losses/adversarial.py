"""The adversarial terms: decoder and encoder against the critic.

States: those of the decoder on real tokens count as real; as fake those on tokens of which some are its own,
sampled in parallel from its predictions. Latents: samples of the prior count as real, the encoder's as fake.
"""

# ruff: noqa: N803, N815 - names carry shapes
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from aurl_trainer.losses.latent import LatentPass
from aurl_trainer.losses.term import Measured, TermFunction
from aurl_trainer.model.critic import Critic, CriticOutput
from aurl_trainer.model.latents import Level


class CriticBatch(NamedTuple):
    """The critic's input for a micro-batch, detached from the model."""

    real_states: Tensor
    own_states: Tensor
    weight_BT: Tensor
    real_z: dict[Level, Tensor]
    own_z: dict[Level, Tensor]
    present: dict[Level, Tensor]


@dataclass
class AdversarialPass(LatentPass):
    """A forward pass of the autoencoder against a critic with frozen weights."""

    critic: Critic
    own_states_BTC: Tensor
    """Decoder states on input with some of its own tokens; gradients reach the decoder alone."""

    @cached_property
    def own_outputs(self) -> list[CriticOutput]:
        """Scores of the states on own tokens."""
        return self.critic.score_states(self.own_states_BTC.float(), self.valid_BT)

    def critic_batch(self, real_z: dict[Level, Tensor]) -> CriticBatch:
        """Return the input of the critic; `real_z` are samples of the prior."""
        levels = self.latents.levels
        return CriticBatch(
            self.states_BTC.detach().float(),
            self.own_states_BTC.detach().float(),
            self.valid_BT,
            {level: z.detach() for level, z in real_z.items()},
            {level: z.detach() for level, z in self.latents.z.items()},
            {level: inferred.present for level, inferred in levels.items()},
        )


def adversarial_states(seen: AdversarialPass) -> Measured:
    """−D(states on own tokens)."""
    scores = [output.mean(-output.scores) for output in seen.own_outputs]
    return Measured.mean(_average(scores), seen.tokens)


def adversarial_latents(seen: AdversarialPass) -> Measured:
    """−D(latents of the encoder)."""
    levels = seen.latents.levels
    present = {level: inferred.present for level, inferred in levels.items()}
    outputs = seen.critic.score_latents(seen.latents.z, present)
    scores = [output.mean(-output.scores) for output in outputs]
    return Measured.mean(_average(scores), seen.tokens)


def feature_matching(seen: AdversarialPass) -> Measured:
    """Mean absolute difference of the critic's mean features over samples and time."""
    with torch.no_grad():
        real = seen.critic.score_states(seen.states_BTC.detach().float(), seen.valid_BT)
    distances = [
        (_mean_feature(own, mine) - _mean_feature(true, theirs)).abs().mean()
        for own, true in zip(seen.own_outputs, real, strict=True)
        for mine, theirs in zip(own.features, true.features, strict=True)
    ]
    return Measured.mean(_average(distances), seen.tokens)


class CriticPass:
    """The scores of a batch by the critic, for one update of its weights."""

    def __init__(self, critic: Critic, batch: CriticBatch) -> None:
        self.critic, self.batch = critic, batch
        self.one = torch.ones((), device=batch.weight_BT.device)

    @cached_property
    def real_inputs(self) -> list[Tensor]:
        """The real examples as leaves, for their gradient: states, then latents top-down."""
        return [x.detach().requires_grad_() for x in (self.batch.real_states, *self.batch.real_z.values())]

    @cached_property
    def real_states(self) -> list[CriticOutput]:
        """Scores of states on real tokens."""
        return self.critic.score_states(self.real_inputs[0], self.batch.weight_BT)

    @cached_property
    def own_states(self) -> list[CriticOutput]:
        """Scores of states on the decoder's own tokens."""
        return self.critic.score_states(self.batch.own_states, self.batch.weight_BT)

    @cached_property
    def real_latents(self) -> list[CriticOutput]:
        """Scores of samples of the prior."""
        z = dict(zip(self.batch.real_z, self.real_inputs[1:], strict=True))
        return self.critic.score_latents(z, self.batch.present)

    @cached_property
    def own_latents(self) -> list[CriticOutput]:
        """Scores of the encoder's latents."""
        return self.critic.score_latents(self.batch.own_z, self.batch.present)


def critic_states(seen: CriticPass) -> Measured:
    """max(0, 1 − D(real)) + max(0, 1 + D(own)) of states."""
    return Measured.mean(_hinge(seen.real_states, seen.own_states), seen.one)


def critic_latents(seen: CriticPass) -> Measured:
    """max(0, 1 − D(prior's)) + max(0, 1 + D(encoder's)) of latents."""
    return Measured.mean(_hinge(seen.real_latents, seen.own_latents), seen.one)


def r1_states(seen: CriticPass) -> Measured:
    """½ ‖∇D‖² at real states, mean over samples."""
    return Measured.mean(_penalty(seen.real_states, seen.real_inputs[:1]), seen.one)


def r1_latents(seen: CriticPass) -> Measured:
    """½ ‖∇D‖² at samples of the prior, mean over samples."""
    return Measured.mean(_penalty(seen.real_latents, seen.real_inputs[1:]), seen.one)


def critic_drift(seen: CriticPass) -> Measured:
    """Mean of D² at real states and latents."""
    outputs = seen.real_states + seen.real_latents
    return Measured.mean(_average([each.mean(each.scores.square()) for each in outputs]), seen.one)


def _hinge(real: Sequence[CriticOutput], own: Sequence[CriticOutput]) -> Tensor:
    return _average([each.mean(F.relu(1 - each.scores)) for each in real]) + _average(
        [each.mean(F.relu(1 + each.scores)) for each in own]
    )


def _penalty(outputs: Sequence[CriticOutput], inputs: Sequence[Tensor]) -> Tensor:
    """Return half the squared length of the gradient of a sample's mean score, mean over samples."""
    samples = len(inputs[0])
    total = sum(
        ((each.scores * each.weight).sum(1) / each.weight.sum(1).clamp(min=1e-6)).sum() for each in outputs
    )
    assert isinstance(total, Tensor)
    gradients = torch.autograd.grad(total, list(inputs), create_graph=True)
    return 0.5 * _average([gradient.square().sum() / samples for gradient in gradients]) * len(gradients)


def _mean_feature(output: CriticOutput, feature_BCN: Tensor) -> Tensor:
    weight = output.weight[:, None]
    return (feature_BCN * weight).sum((0, 2)) / weight.sum().clamp(min=1e-6)


def _average(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


FUNCTIONS: Final[Mapping[str, TermFunction]] = {
    "adversarial_states": adversarial_states,
    "adversarial_latents": adversarial_latents,
    "feature_matching": feature_matching,
    "critic_states": critic_states,
    "critic_latents": critic_latents,
    "r1_states": r1_states,
    "r1_latents": r1_latents,
    "critic_drift": critic_drift,
}
