"""The report of sampled music against the whole training split."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest

from aurl_trainer.data.config import TokenizerConfig
from aurl_trainer.data.shards import OFFSET_TYPE, TOKEN_TYPE, Split
from aurl_trainer.data.tokenizer import encode
from aurl_trainer.data.vocabulary import Vocabulary
from aurl_trainer.evaluation import report
from aurl_trainer.sampling.config import SamplingConfig
from aurl_trainer.sampling.generate import LanguageModel
from unit.evaluation.test_distance import walk

VOCABULARY = Vocabulary(TokenizerConfig())


def _split(path: Path, seeds: range) -> Split:
    pieces = [encode(walk(seed), VOCABULARY).tokens for seed in seeds]
    path.write_bytes(np.concatenate(pieces).astype(TOKEN_TYPE).tobytes())
    return Split(path, np.cumsum([0, *map(len, pieces)]).astype(OFFSET_TYPE).astype(np.int64))


def test_copies_of_any_training_piece_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of 40 of 1,034 pieces; only 500 are compared by their distributions."""
    train, held_out = (
        _split(tmp_path / "train", range(1034)),
        _split(tmp_path / "held-out", range(2000, 2010)),
    )
    copied = [encode(walk(seed), VOCABULARY).tokens for seed in range(7, 1034, 26)]
    assert len(copied) == 40
    monkeypatch.setattr(report, "generate", lambda *_: copied)
    ngrams = report.training_ngrams(train, VOCABULARY)
    found = report.evaluate_samples(
        cast("LanguageModel", None), VOCABULARY, train, held_out, ngrams, SamplingConfig(), 64
    )
    assert found["memorised"] == 1.0
    assert found["memorisedFloor"] < 0.4
