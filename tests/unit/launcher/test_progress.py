"""The answer of /progress stays small."""

from __future__ import annotations

import json
import random
from statistics import median

import pytest

from aurl_trainer.launcher.progress import MAX_RANKS, SLOWEST_RANKS, compute_seconds


def test_the_compute_times_of_few_ranks_are_rounded() -> None:
    assert compute_seconds([]) == []
    assert compute_seconds([0.123456, 12.3456789, float("nan")]) == [0.1235, 12.35, None]


@pytest.mark.parametrize("ranks", [MAX_RANKS, MAX_RANKS + 1, 20_000])
def test_the_compute_times_of_many_ranks_are_bounded(ranks: int) -> None:
    draw = random.Random(ranks)
    seconds = [1 + draw.random() for _ in range(ranks)]
    seconds[17] = 9.0
    answer = compute_seconds(seconds)
    assert len(json.dumps(answer)) < 4096
    if isinstance(answer, list):
        assert len(answer) == ranks
    else:
        assert answer["median"] == pytest.approx(median(seconds), rel=1e-3)
        assert len(answer["slowest"]) == SLOWEST_RANKS
        assert answer["slowest"]["17"] == 9.0
