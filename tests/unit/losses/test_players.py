"""The two players: the loss of each moves all of its own parameters and no others."""

from __future__ import annotations

import torch
from torch import Tensor

from aurl_trainer.distributed.runtime import Distributed, Layout
from aurl_trainer.model.critic import SpectralConv
from aurl_trainer.objective.objective import Objective
from aurl_trainer.optim.adamw import AdamW
from unit.losses.tiny import CPU, all_terms, batch, objective

DISTRIBUTED = Distributed(Layout(), CPU)


def weights(made: Objective) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    assert made.adversary is not None
    return tuple(  # type: ignore[return-value]
        {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
        for module in (made.model, made.adversary.critic)
    )


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_each_players_loss_moves_exactly_its_own_parameters() -> None:
    losses = all_terms("vae-gan") | {"balance": "uncertainty"}
    made = objective("vae-gan", losses=losses, dropout=0.1)
    assert made.adversary is not None
    optimizer = AdamW(dict(made.model.named_parameters()), 0.9, 0.99, 1e-8)
    torch.manual_seed(0)
    inputs, targets = batch()

    model, critic = weights(made)
    torch.autograd.backward(made.losses(made.network, inputs, targets, 48).minimised)
    assert all(parameter.grad is None for parameter in made.adversary.critic.parameters())
    optimizer.step(0.01, 0.0, torch.ones(()), torch.zeros(()))
    optimizer.zero_grad()
    model_after, critic_after = weights(made)
    absent = {name for name in model if name.endswith("reconstruction_other")}  # no such tokens
    assert moved(model, model_after) == set(model) - absent
    assert moved(critic, critic_after) == set()

    made.adversary.step(DISTRIBUTED, 48, 1.0)
    assert all(parameter.grad is None for parameter in made.model.parameters())
    model_last, critic_last = weights(made)
    assert moved(model_after, model_last) == set()
    assert moved(critic_after, critic_last) == set(critic)


def test_the_critic_is_idle_before_its_start_and_in_evaluation() -> None:
    made = objective("vae-gan")
    assert made.adversary is not None
    inputs, targets = batch()
    made.losses(made.network, inputs, targets, 1)
    assert made.adversary.batches == []
    _, before = weights(made)
    made.adversary.step(DISTRIBUTED, 1, 1.0)
    assert moved(before, weights(made)[1]) == set()
    made.losses(
        made.network, inputs, targets, 45
    )  # the critic is active from 40 %, the adversarial terms from 50 %
    assert len(made.adversary.batches) == 1
    made.forget()
    assert made.adversary.batches == []
    made.evaluate([(inputs, targets)], DISTRIBUTED, torch.no_grad())
    assert made.adversary.batches == []


def test_a_non_finite_gradient_moves_nothing() -> None:
    made = objective("vae-gan", losses=all_terms("vae-gan"))
    assert made.adversary is not None
    made.losses(made.network, *batch(), 48)
    shown = made.adversary.batches[0]
    made.adversary.batches[0] = shown._replace(own_states=shown.own_states * float("nan"))
    _, before = weights(made)
    made.adversary.step(DISTRIBUTED, 48, 1.0)
    assert moved(before, weights(made)[1]) == set()
    assert made.adversary.guard.read().nonfinite == 1


def test_critic_learns_to_tell_real_from_own() -> None:
    made = objective("vae-gan", losses=all_terms("vae-gan"), critic={"learningRate": 0.01})
    adversary = made.adversary
    assert adversary is not None
    torch.manual_seed(0)
    made.losses(made.network, *batch(), 48)
    shown = adversary.batches[0]._replace(own_states=adversary.batches[0].own_states * -1.0)
    for _ in range(60):
        adversary.batches = [shown]
        adversary.step(DISTRIBUTED, 49, 1.0)
    adversary.terms.counts.zero_()
    adversary.batches = [shown]
    adversary.step(DISTRIBUTED, 49, 1.0)
    assert adversary.terms.take(DISTRIBUTED)["critic_states"] < 1.0  # 2 if untrained


def test_spectral_norm_is_one_and_keeps_its_parameters() -> None:
    layer = SpectralConv(6, 5, 3)
    layer.initialise(torch.Generator().manual_seed(0))
    assert {name for name, _ in layer.named_parameters()} == {"weight", "bias"}
    with torch.no_grad():
        layer.weight.mul_(7.0)
    for _ in range(30):
        layer.refresh()
    matrix = layer.weight.flatten(1)
    largest = torch.dot(layer.left, matrix @ layer.right)
    torch.testing.assert_close(largest, torch.linalg.matrix_norm(matrix, 2))
