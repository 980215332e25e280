"""Filters and draws of tokens, as tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aurl_trainer.sampling.config import SamplingConfig
from aurl_trainer.sampling.draw import draw, uniforms

PROBABILITIES = np.array([0.05, 0.4, 0.1, 0.3, 0.15])
ALL = np.ones(5, np.bool_)


@pytest.mark.parametrize(
    ("settings", "allowed", "expected"),
    [
        ({}, ALL, {0, 1, 2, 3, 4}),
        ({"temperature": 0}, ALL, {1}),
        ({"temperature": 0}, np.array([1, 0, 1, 1, 1], bool), {3}),
        ({"top_k": 2}, ALL, {1, 3}),
        ({"top_k": 1}, ALL, {1}),
        ({"top_p": 0.39}, ALL, {1}),
        ({"top_p": 0.41}, ALL, {1, 3}),
        ({"top_p": 0.84}, ALL, {1, 3, 4}),
        ({"min_p": 0.3}, ALL, {1, 3, 4}),
        ({"min_p": 1.0}, ALL, {1}),
        ({"top_k": 3, "min_p": 0.5}, ALL, {1, 3}),
        # Shares refer to the allowed tokens.
        ({"top_p": 0.5}, np.array([1, 0, 1, 0, 1], bool), {4}),
    ],
)
def test_a_filter_keeps_exactly_these_tokens(
    settings: dict[str, float], allowed: np.ndarray, expected: set[int]
) -> None:
    config = SamplingConfig.model_validate({"top_p": 1.0} | settings)
    grid = np.linspace(0, 1, 400, endpoint=False)
    logits = np.tile(np.log(PROBABILITIES) + 3, (len(grid), 1))
    drawn = draw(logits, np.tile(allowed, (len(grid), 1)), config, grid)
    assert set(drawn.tolist()) == expected


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_those_of_the_tempered_softmax(temperature: float) -> None:
    config = SamplingConfig(top_p=1.0, temperature=temperature)
    grid = np.linspace(0, 1, 20_000, endpoint=False)
    drawn = draw(np.tile(np.log(PROBABILITIES), (len(grid), 1)), np.ones((len(grid), 5), bool), config, grid)
    wanted = PROBABILITIES ** (1 / temperature)
    np.testing.assert_allclose(np.bincount(drawn) / len(grid), wanted / wanted.sum(), atol=1e-3)


@given(st.integers(0, 2**31 - 1), st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_numbers_depend_on_seed_and_piece_but_not_on_the_count(seed: int, piece: int) -> None:
    numbers = uniforms([seed, piece], 64)
    assert 0 <= numbers.min() <= numbers.max() < 1
    np.testing.assert_array_equal(uniforms([seed, piece], 8), numbers[:8])
    assert not np.array_equal(uniforms([seed, piece + 1], 64), numbers)
    assert not np.array_equal(uniforms([seed + 1, piece], 64), numbers)


def test_the_numbers_of_a_seed_never_change() -> None:
    assert [f"{number:.6f}" for number in uniforms([0, 0], 3)] == ["0.014067", "0.257767", "0.471565"]
