"""The sequence length over steps."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest

from aurl_trainer.config import JobFile
from aurl_trainer.data.curriculum import Curriculum, CurriculumConfig
from aurl_trainer.errors import UserError


def stages(total: int = 100, context: int = 64, **config: Any) -> list[tuple[int, int]]:
    """Return each length with the first step that has it."""
    curriculum = Curriculum(CurriculumConfig.model_validate(config), context, total)
    lengths = [(curriculum.length(step), step) for step in range(1, total + 1)]
    return [next(group) for _, group in groupby(lengths, key=lambda pair: pair[0])]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, [(64, 1)]),
        # 8 + 56 p reaches 16 at p = 1/7 and 32 at 3/7 of the ramp.
        ({"kind": "linear", "startLength": 8, "rampFraction": 1}, [(8, 1), (16, 16), (32, 44)]),
        ({"kind": "linear", "startLength": 8}, [(8, 1), (16, 9), (32, 23), (64, 51)]),
        # 8 · 8^p doubles at every third.
        ({"kind": "exponential", "startLength": 8}, [(8, 1), (16, 18), (32, 35), (64, 51)]),
        # (1 − cos πp) / 2 is 1/7 at p = 0.2468 and 3/7 at p = 0.4544.
        ({"kind": "cosine", "startLength": 8}, [(8, 1), (16, 14), (32, 24), (64, 51)]),
        ({"kind": "step", "startLength": 16, "everySteps": 30}, [(16, 1), (32, 31), (64, 61)]),
        ({"kind": "linear", "startLength": 8, "endLength": 16}, [(8, 1), (16, 51)]),
        ({"kind": "linear", "startLength": 64}, [(64, 1)]),
    ],
)
def test_stages(config: dict[str, Any], expected: list[tuple[int, int]]) -> None:
    assert stages(**config) == expected


@pytest.mark.parametrize("length", [8, 16, 32, 64])
def test_a_step_always_has_the_same_number_of_tokens(length: int) -> None:
    curriculum = Curriculum(CurriculumConfig(kind="cosine", start_length=8), 64, 10)
    assert curriculum.samples(6, length) * length == 6 * 64


@pytest.mark.parametrize(
    ("curriculum", "complaint"),
    [
        ({"kind": "linear"}, "training.curriculum: kind linear needs startLength"),
        (
            {"kind": "linear", "startLength": 8, "endLength": 128},
            "training: curriculum.endLength 128 is longer than contextLength 64",
        ),
        (
            {"kind": "linear", "startLength": 24, "endLength": 48},
            "training: curriculum.endLength 48 must divide contextLength 64",
        ),
        (
            {"kind": "step", "startLength": 12},
            "training: contextLength 64 must be startLength 12 times a power of two",
        ),
        (
            {"kind": "cosine", "startLength": 32, "endLength": 16},
            "training.curriculum: curriculum.startLength 32 is longer than endLength 16",
        ),
    ],
)
def test_lengths_that_do_not_fit_are_explained(curriculum: dict[str, Any], complaint: str) -> None:
    document = {
        "dataset": {"source": {"directory": {"path": "midi"}}},
        "training": {"contextLength": 64, "curriculum": curriculum},
    }
    with pytest.raises(UserError) as error:
        JobFile.parse(document, "job.yaml")
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"kind": "linear", "startLength": 8},
        {"kind": "cosine", "startLength": 8},
        {"kind": "step", "startLength": 16, "everySteps": 30},
    ],
)
def test_a_length_begins_where_it_differs_from_the_one_before(config: dict[str, Any]) -> None:
    curriculum = Curriculum(CurriculumConfig.model_validate(config), 64, 100)
    begins = [step for step in range(1, 101) if curriculum.begins_length(step)]
    assert begins == [first for _, first in stages(**config)[1:]]
