"""The 5-gram floor against a plain reference, written from the formula."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from aurl_trainer.data.shards import OFFSET_TYPE, TOKEN_TYPE, Split
from aurl_trainer.evaluation.ngram import ngram_nats

Piece = tuple[int, ...]


def _split(path: Path, pieces: list[Piece]) -> Split:
    tokens = np.array([token for piece in pieces for token in (1, *piece, 2)], TOKEN_TYPE)
    path.write_bytes(tokens.tobytes())
    sizes = [len(piece) + 2 for piece in pieces]
    return Split(path, np.cumsum([0, *sizes]).astype(OFFSET_TYPE).astype(np.int64))


def _reference(train: list[Piece], held_out: list[Piece], size: int) -> float:
    counts: dict[tuple[object, ...], Counter[int]] = defaultdict(Counter)
    for piece in train:
        whole = (1, *piece, 2)
        for at in range(1, len(whole)):
            for order in range(5):
                if order <= at:
                    counts[whole[at - order : at]][whole[at]] += 1
                else:  # contexts longer than the piece so far are its whole beginning
                    counts[("start", order, *whole[:at])][whole[at]] += 1

    def probability(context: tuple[object, ...], shorter: list[tuple[object, ...]], token: int) -> float:
        below = probability(shorter[0], shorter[1:], token) if shorter else 1 / size
        found = counts.get(context)
        if not found:
            return below
        return float((found[token] + len(found) * below) / (sum(found.values()) + len(found)))

    nats = []
    for piece in held_out:
        whole = (1, *piece, 2)
        for at in range(1, len(whole)):
            contexts: list[tuple[object, ...]] = [
                whole[at - order : at] if order <= at else ("start", order, *whole[:at]) for order in range(5)
            ]
            nats.append(-math.log(probability(contexts[4], contexts[3::-1], whole[at])))
    return sum(nats) / len(nats)


def test_it_equals_the_formula(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    pieces: list[Piece] = [
        tuple(int(t) for t in (rng.integers(0, 3, 30).cumsum() % 5) + 3) for _ in range(12)
    ]
    train, held_out = _split(tmp_path / "a", pieces[:9]), _split(tmp_path / "b", pieces[9:])
    assert ngram_nats(train, held_out, 8) == pytest.approx(_reference(pieces[:9], pieces[9:], 8), rel=1e-9)


def test_it_learns_repetition_and_nothing_from_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cycle = [tuple(3 + (start + i) % 4 for i in range(40)) for start in range(4)]
    regular = ngram_nats(_split(tmp_path / "a", cycle * 5), _split(tmp_path / "b", cycle), 8)
    assert regular < 0.2
    noise = [tuple(rng.integers(3, 11, 60).tolist()) for _ in range(40)]
    random = ngram_nats(_split(tmp_path / "c", noise[:30]), _split(tmp_path / "d", noise[30:]), 11)
    assert random > math.log(8)
