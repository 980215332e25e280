"""Sampling from an autoencoder: each piece has its own latents, determined by the seed."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from torch import nn

from aurl_trainer.data.vocabulary import BAR
from aurl_trainer.model.config import ModelConfig
from aurl_trainer.model.vae import VAE
from aurl_trainer.sampling.config import SamplingConfig
from aurl_trainer.sampling.generate import generate
from aurl_trainer.sampling.latent import (
    BlendSource,
    LatentSampler,
    LatentSource,
    PriorSource,
    VariationSource,
    normals,
    posterior_means,
)
from unit.losses.tiny import LATENTS, MODEL, VOCABULARY, batch


def make() -> VAE:
    model = VAE(ModelConfig.model_validate(MODEL | {"latents": LATENTS}), VOCABULARY.size)
    model.initialise(0)
    with torch.no_grad():  # makes the latents decisive
        for layer in model.decoder.inject:
            cast(nn.Linear, layer).weight.mul_(20.0)
    return model.eval()


def write(model: VAE, source: LatentSource, **changes: int) -> list[list[int]]:
    config = SamplingConfig.model_validate({"count": 3, "maxTokens": 60, "batchSize": 3, "seed": 1} | changes)
    return [piece.tolist() for piece in generate(LatentSampler(model, source), VOCABULARY, config, 24)]


def test_a_piece_depends_on_its_number_and_not_on_the_batch() -> None:
    """60 tokens in a context of 24: the context slides, and there are more bars than the 8 latents."""
    model = make()
    together = write(model, PriorSource(model, 5))
    assert together == write(model, PriorSource(model, 5), batchSize=1)
    assert together == write(model, PriorSource(model, 5), batchSize=2)
    assert together != write(model, PriorSource(model, 6))
    assert max(piece.count(BAR) for piece in together) > 2


def test_incremental_logits_equal_those_of_the_whole() -> None:
    model = make()
    inputs, _ = batch(2, 20)
    sampler = LatentSampler(model, PriorSource(model, 0))
    with torch.no_grad():
        whole = sampler(inputs, cache=sampler.new_cache(2, 20, "cpu", torch.float32))
        cache = sampler.new_cache(2, 20, "cpu", torch.float32)
        parts = [sampler(part, cache=cache) for part in torch.split(inputs, [7, 1, 12], dim=1)]
        torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=1e-4)
        # A later context knows the bars before it and its pieces.
        cache = sampler.new_cache(1, 20, "cpu", torch.float32)
        sampler.begin(cache, np.array([1]), inputs[1:, :8].numpy())
        sampler(inputs[1:, 8:], cache=cache)
        assert cache.bar_B.tolist() == [int((inputs[1] == BAR).sum())]
        assert cache.pieces == [1]


def test_blends_begin_and_end_at_the_two_pieces() -> None:
    model = make()
    first, last = (posterior_means(model, batch(1, 20, seed=seed)[0]) for seed in (1, 2))
    blend = BlendSource(first, last, shares=[0.0, 0.5, 1.0])
    for piece, end in ((0, first), (2, last)):
        for level, z in blend(piece, 0).items():
            torch.testing.assert_close(z, end[level])
    middle = blend(1, 0)["bar"]
    torch.testing.assert_close(middle, (first["bar"] + last["bar"]) / 2)
    assert len({tuple(piece) for piece in write(model, blend, seed=3)}) > 1


@pytest.mark.parametrize(("spread", "alike"), [(0.0, True), (1.0, False)])
def test_variations_spread_around_the_piece(spread: float, alike: bool) -> None:
    model = make()
    tokens, _ = batch(1, 20)
    source = VariationSource(model, tokens, seed=0, spread=spread)
    first, second = source(0, 0)["bar"], source(1, 0)["bar"]
    assert torch.equal(first, second) == alike
    assert torch.equal(first, posterior_means(model, tokens)["bar"]) == alike
    assert torch.equal(source(1, 0)["bar"], second)


def test_normals_are_standard_normal() -> None:
    numbers = normals([1, 2], 20_000)
    assert abs(float(numbers.mean())) < 0.03 and abs(float(numbers.std()) - 1) < 0.03
    assert torch.equal(numbers[:5], normals([1, 2], 5)) and not torch.equal(numbers[:5], normals([1, 3], 5))
