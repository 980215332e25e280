"""The autoencoder: causal given its latents, unable to cheat, and alive at its default sizes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from aurl_trainer.data.vocabulary import BAR, PAD
from aurl_trainer.distributed.runtime import Distributed, Layout
from aurl_trainer.losses.config import Mode
from aurl_trainer.model.config import ModelConfig
from aurl_trainer.model.latents import LEVELS, Bars, Gaussian, gaussian_noise
from aurl_trainer.model.vae import VAE
from aurl_trainer.objective.objective import Objective
from aurl_trainer.optim.adamw import AdamW
from unit.losses.tiny import CPU, LATENTS, MODEL, VOCABULARY, batch, objective

DISTRIBUTED = Distributed(Layout(), CPU)


def make() -> VAE:
    model = VAE(ModelConfig.model_validate(MODEL | {"latents": LATENTS}), VOCABULARY.size)
    model.initialise(0)
    return model


def test_bars_are_counted_from_the_past() -> None:
    tokens = torch.tensor([[1, BAR, 5, 6, BAR, BAR, 7, PAD], [BAR, 4, 4, 4, 4, 4, 4, 4]])
    bars = Bars.of(tokens, BAR, PAD, 3)
    assert bars.index_BT.tolist() == [[0, 1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 1, 1, 1, 1]]
    assert bars.member_BKT[0].sum(1).tolist() == [1, 3, 3]  # padding is in no bar
    assert bars.present_BK.tolist() == [[True, True, True], [False, True, False]]
    values = torch.tensor([[10.0, 20.0, 30.0], [1.0, 2.0, 3.0]])[..., None]
    assert bars.gather(values)[..., 0].tolist() == [[10, 20, 20, 20, 30, 30, 30, 30], [2] * 8]
    assert bars.mean(tokens[..., None].float())[0, :, 0].tolist() == pytest.approx([1, 14 / 3, 13 / 3])


@pytest.mark.parametrize("position", [1, 7, 15])
@pytest.mark.parametrize("token", [BAR, 9])
def test_given_the_latents_a_future_token_changes_no_earlier_logit(position: int, token: int) -> None:
    model = make()
    inputs, _ = batch(2, 16)
    z = model.infer(inputs).z
    changed = inputs.clone()
    changed[:, position] = torch.where(inputs[:, position] == token, token + 1, token)

    def logits(tokens: Tensor) -> Tensor:
        return model.decoder.logits(model.decoder(tokens, z, model.bars(tokens)))

    before, after = logits(inputs), logits(changed)
    assert torch.equal(before[:, :position], after[:, :position])
    assert not torch.allclose(before[:, position], after[:, position])


def test_cached_decoding_equals_uncached() -> None:
    model = make()
    inputs, _ = batch(2, 16)
    with torch.no_grad():
        z, bars = model.infer(inputs).z, model.bars(inputs)
        cache = model.decoder.transformer.new_cache(2, 16)
        parts = []
        for begin, end in ((0, 6), (6, 7), (7, 16)):
            part = Bars(bars.index_BT[:, begin:end], bars.member_BKT[..., begin:end], bars.present_BK)
            parts.append(model.decoder(inputs[:, begin:end], z, part, cache))
        torch.testing.assert_close(torch.cat(parts, 1), model.decoder(inputs, z, bars), atol=1e-5, rtol=1e-5)


def test_the_latents_of_a_bar_move_the_logits_of_that_bar_and_later_ones_alone() -> None:
    model = make()
    inputs, _ = batch(1, 24)
    bars = model.bars(inputs)
    z = model.infer(inputs).z
    before = model.decoder(inputs, z, bars)
    z["bar"] = z["bar"].clone()
    z["bar"][:, 1] += 1.0
    after = model.decoder(inputs, z, bars)
    first = int((bars.index_BT[0] == 1).nonzero()[0])
    assert torch.equal(before[:, :first], after[:, :first])
    assert not torch.allclose(before[:, first], after[:, first])


def test_posterior_of_a_level_depends_on_the_draw_above() -> None:
    model = make()
    inputs, _ = batch()
    torch.manual_seed(0)
    first, second = (model.infer(inputs).levels for _ in range(2))
    assert torch.equal(first["global"].posterior.mean, second["global"].posterior.mean)
    for level in ("phrase", "bar"):
        assert not torch.equal(first[level].posterior.mean, second[level].posterior.mean)
        assert not torch.equal(first[level].prior.mean, second[level].prior.mean)


def test_divergence_is_that_of_torch() -> None:
    torch.manual_seed(0)
    a, b = (Gaussian(*torch.randn(2, 2, 3, 4)) for _ in range(2))
    p, q = (torch.distributions.Normal(g.mean, (0.5 * g.log_variance).exp()) for g in (a, b))
    torch.testing.assert_close(a.divergence(b), torch.distributions.kl_divergence(p, q))


@pytest.mark.parametrize("samples", [1, 2])
def test_default_sizes_work(samples: int) -> None:
    model = VAE(ModelConfig(), VOCABULARY.size)
    model.initialise(0)
    inputs, _ = batch(samples, 64)
    model(inputs).sum().backward()
    drawn = model.prior.draw(inputs, gaussian_noise(inputs))
    assert {level: tuple(z.shape) for level, z in drawn.items()} == {
        "global": (samples, 1, 16),
        "phrase": (samples, 8, 16),
        "bar": (samples, 32, 32),
    }
    assert {name for name, parameter in model.named_parameters() if parameter.grad is None} == {
        name for name, _ in model.named_parameters() if name.startswith("prior.")
    }


def noise(samples: int, length: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Independent tokens, uniform over eight of them, the bar among them."""
    tokens = torch.randint(BAR, BAR + 8, (samples, length + 1), generator=source)
    return tokens[:, :-1], tokens[:, 1:]


@pytest.mark.parametrize("mode", ["vae", "vae-gan"])
def test_the_bound_on_noise_cannot_fall_under_its_entropy(mode: Mode) -> None:
    """Latents may carry tokens past the decoder, but only at the price of their KL."""
    torch.manual_seed(0)
    full = {f"kl{level.title()}": {"weight": 1.0, "ramp": 0.0, "cycles": 1} for level in LEVELS}
    made = objective(mode, losses=full | {"freeBits": 0.0, "barContent": {"weight": 0.0}})
    source = torch.Generator().manual_seed(1)
    reported = train(made, [noise(16, 16, source) for _ in range(60)])
    entropy = math.log(8)
    assert min(reported) > entropy - 0.02
    assert sum(reported[-10:]) / 10 < 1.25 * entropy  # and it does learn which tokens there are
    # With the latents of another sample there is nothing to gain at all.
    measures = made.evaluate([noise(64, 16, source)], DISTRIBUTED, torch.no_grad())
    assert measures["nll_shuffled"] > entropy - 0.02


def test_latents_carry_what_the_decoder_cannot_know() -> None:
    """Each sample repeats one token, but the decoder sees few tokens: the latents must carry it."""
    torch.manual_seed(0)
    light = {f"kl{level.title()}": {"weight": 0.1, "ramp": 0.0, "cycles": 1} for level in LEVELS}
    made = objective("vae", losses=light, latents={"tokenDropout": 0.9})
    source = torch.Generator().manual_seed(2)

    def draw(samples: int) -> tuple[Tensor, Tensor]:
        tokens = torch.randint(5, 13, (samples, 1), generator=source).expand(-1, 17).clone()
        tokens[:, ::8] = BAR
        return tokens[:, :-1], tokens[:, 1:]

    train(made, [draw(16) for _ in range(100)])
    measures = made.evaluate([draw(64)], DISTRIBUTED, torch.no_grad())
    assert measures["nll_shuffled"] > 2 * measures["nll"]
    assert sum(measures[f"active_units_{level}"] for level in LEVELS) >= 2
    assert measures["loss"] > measures["nll"]
    assert made.evaluate([draw(64)], DISTRIBUTED, torch.no_grad()).keys() == measures.keys()


def train(made: Objective, batches: list[tuple[Tensor, Tensor]]) -> list[float]:
    """Train as the loop does and return the reported loss per token of each step."""
    optimizer = AdamW(dict(made.model.named_parameters()), 0.9, 0.99, 1e-8)
    reported = []
    for number, (inputs, targets) in enumerate(batches):
        step = 1 + number * 100 // len(batches)
        loss, bound, _ = made.losses(made.network, inputs, targets, step)
        torch.autograd.backward(loss / targets.numel())
        optimizer.step(1e-2, 0.0, torch.ones(()), torch.zeros(()))
        optimizer.zero_grad()
        if made.adversary is not None:
            made.adversary.step(DISTRIBUTED, step, 1.0)
        reported.append(float(bound) / targets.numel())
    return reported


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    first = make()
    torch.manual_seed(6)
    second = make()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
