"""Every term of the loss: its gradient reaches the right parts of the model, and no others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from aurl_trainer.distributed.runtime import Distributed, Layout
from aurl_trainer.losses.adversarial import CriticPass
from aurl_trainer.losses.config import CRITIC_TERMS, TERMS, LossesConfig, belongs
from aurl_trainer.losses.weighted import FUNCTIONS
from aurl_trainer.model.latents import gaussian_noise
from aurl_trainer.objective.adversary import Adversary
from aurl_trainer.objective.autoencoder import Autoencoding
from aurl_trainer.objective.objective import Objective
from unit.losses.tiny import CPU, all_terms, batch, objective

DISTRIBUTED = Distributed(Layout(), CPU)

DECODED = {"encoder", "decoder"}
"""The parts that a prediction of the decoder depends on, including the encoder through the latents."""
ENCODED = {"encoder"}

REACHES: dict[str, set[str]] = {
    **{name: DECODED for name in TERMS if name.startswith(("reconstruction_", "ordinal_"))},
    "label_smoothing": DECODED,
    "confidence_penalty": DECODED,
    "logit_scale": DECODED,
    "repetition": DECODED,
    "activation": DECODED,
    "temporal_activation": DECODED,
    "dropout_consistency": DECODED,
    "kl_global": ENCODED,
    "kl_phrase": {"encoder", "prior"},
    "kl_bar": {"encoder", "prior"},
    "total_correlation": ENCODED,
    "latent_covariance": ENCODED,
    "aggregate_posterior": ENCODED,
    "latent_smoothness": ENCODED,
    "bar_content": {"encoder", "heads.bar_content"},
    "bar_onsets": {"encoder", "heads.bar_onsets"},
    "bar_density": {"encoder", "heads.bar_density"},
    "bar_prediction": {"encoder", "heads.bar_prediction"},
    "bar_similarity": ENCODED,
    "corruption_consistency": ENCODED,
    "cycle_consistency": DECODED,
    "latent_use": DECODED,
    "adversarial_states": {"decoder"},
    "adversarial_latents": ENCODED,
    "feature_matching": {"decoder"},
    "critic_states": {"critic.states"},
    "critic_latents": {"critic.latents"},
    "r1_states": {"critic.states"},
    "r1_latents": {"critic.latents"},
    "critic_drift": {"critic.states", "critic.latents"},
}
ABSENT = {"reconstruction_other"}
"""A term without targets: every kind of token of this encoding has a term of its own."""


def part(name: str) -> str:
    """Return the part of the model that a parameter belongs to."""
    first, _, rest = name.partition(".")
    return {"heads": f"heads.{rest.split('.')[1]}", "critic": f"critic.{rest.split('.')[0]}"}.get(
        first, first
    )


def reached(modules: dict[str, nn.Module]) -> set[str]:
    """Return the parts with a non-zero gradient."""
    return {
        part(f"{prefix}{name}")
        for prefix, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }


def everything() -> tuple[Objective, Adversary, Autoencoding]:
    made = objective("vae-gan", losses=all_terms("vae-gan"), dropout=0.1)
    network = made.network
    assert made.adversary is not None and isinstance(network, Autoencoding)
    return made, made.adversary, network


def test_every_term_of_the_configuration_has_a_function_and_a_test() -> None:
    assert set(TERMS) == set(FUNCTIONS) == set(REACHES)
    assert sum(belongs(name, "vae-gan") for name in TERMS) == len(TERMS) >= 30


@pytest.mark.parametrize("name", TERMS)
def test_the_gradient_of_a_term_reaches_exactly_its_parts(name: str) -> None:
    _, adversary, network = everything()
    model, critic = network.model, adversary.critic
    modules = {"": model, "critic.": critic}
    torch.manual_seed(0)
    inputs, targets = batch()
    seen: Any = network.look(inputs, targets, 50)
    if name in CRITIC_TERMS:
        critic.requires_grad_(True)
        seen = CriticPass(critic, seen.critic_batch(model.prior.draw(inputs, gaussian_noise(inputs))))
    measured = FUNCTIONS[name](seen)
    assert torch.isfinite(measured.objective) and torch.isfinite(measured.total)
    torch.autograd.backward(measured.objective)
    assert reached(modules) == (set() if name in ABSENT else REACHES[name])
    assert (measured.count > 0) == (name not in ABSENT)


@pytest.mark.parametrize("name", [name for name in TERMS if belongs(name, "transformer")])
def test_terms_of_the_transformer_reach_its_weights(name: str) -> None:
    alias = str(LossesConfig.model_fields[name].alias)
    losses = {alias: {"weight": 0.5}, "balance": "uncertainty"}
    made = objective("transformer", losses=losses, dropout=0.1)
    torch.manual_seed(0)
    objective_, reported, _ = made.losses(made.network, *batch(), 1)
    assert made.terms is not None and name in made.terms.names
    torch.autograd.backward(objective_)
    assert all(parameter.grad is not None for parameter in made.model.parameters())
    assert reported > 0


def test_single_sample_and_padding_alone_are_finite() -> None:
    made, _, _ = everything()
    pad = torch.zeros(2, 24, dtype=torch.int64)
    for inputs, targets in (batch(1), (pad, pad), (pad, pad - 100), batch(2, 8)):
        loss, reported, _ = made.losses(made.network, inputs, targets, 50)
        torch.autograd.backward(loss)
        assert torch.isfinite(loss) and torch.isfinite(reported)
        gradients = [parameter.grad for parameter in made.model.parameters()]
        assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)
        made.model.zero_grad()


def test_plain_weights_are_the_cross_entropy() -> None:
    """Terms of weight 1 add up to the plain loss, except for the order of additions."""
    plain = objective("transformer")
    terms = objective("transformer", losses={"logitScale": {"weight": 1e-12}})
    assert plain.terms is None and terms.terms is not None
    inputs, targets = batch()
    expected, _, _ = plain.losses(plain.network, inputs, targets, 1)
    weighted, reported, _ = terms.losses(terms.network, inputs, targets, 1)
    torch.testing.assert_close(weighted, expected)
    torch.testing.assert_close(reported, expected.detach())
    kinds = sum(
        total
        for name, (total, _) in zip(terms.terms.names, terms.terms.counts.tolist(), strict=True)
        if name.startswith("rec")
    )
    assert kinds == pytest.approx(expected.item(), rel=1e-5)
    read = terms.components(DISTRIBUTED)
    assert read["reconstruction_pitch"] > 0 and "reconstruction_other" not in read


def test_uncertainty_weights_converge_to_their_optimum() -> None:
    """exp(−s)·L + s is minimal at s = ln L, where all terms have equal weight."""
    made = objective("transformer", losses={"balance": "uncertainty"})
    assert made.terms is not None
    inputs, targets = batch()
    learned = made.terms.log_variance
    optimizer = torch.optim.Adam(learned.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        torch.autograd.backward(made.losses(made.network, inputs, targets, 1).minimised / 100)
        optimizer.step()
    made.forget()
    made.losses(made.network, inputs, targets, 1)
    read = made.components(DISTRIBUTED)
    for name in ("reconstruction_pitch", "reconstruction_duration", "reconstruction_bar"):
        assert learned[name].item() == pytest.approx(torch.tensor(read[name]).log().item(), abs=0.02)
    assert "terms.log_variance.reconstruction_pitch" in dict(made.model.named_parameters())
