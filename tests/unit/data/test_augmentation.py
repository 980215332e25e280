"""Augmentation: samples stay well-formed, resume identically, and vary only where configured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from aurl_trainer.data.config import AugmentationConfig, DatasetConfig
from aurl_trainer.data.loader import IGNORED, Loader
from aurl_trainer.data.prepare import prepare
from aurl_trainer.data.shards import Dataset
from aurl_trainer.data.vocabulary import KIND
from aurl_trainer.schema import explain
from unit.data.wild_midi import tune

CONTEXT = 64
ALL = AugmentationConfig(transpose_semitones=5, stretch=0.2, velocity=12)


@pytest.fixture(scope="module", params=["remi", "events"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("volume")
    (root / "music").mkdir()
    for number in range(20):
        pitches = [40 + number + step % 7 for step in range(20)]
        (root / "music" / f"{number:02}.mid").write_bytes(tune(*pitches))
    config = DatasetConfig.model_validate(
        {
            "source": {"directory": {"path": "music"}},
            "tokenizer": {"encoding": request.param},
            "workers": 1,
        }
    )
    return prepare(config, root / "job", root, lambda done, total, dropped: None).path


def _kinds(dataset: Path, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(Dataset.open(dataset).vocabulary().kind_of[tokens])


def test_a_varied_sample_keeps_its_kinds_and_shifts_by_one_amount(dataset: Path) -> None:
    plain = Loader(dataset, "train", CONTEXT, 1).batch(0, CONTEXT, 40)
    varied = Loader(dataset, "train", CONTEXT, 1, augmentation=ALL).batch(0, CONTEXT, 40)
    np.testing.assert_array_equal(_kinds(dataset, plain[0]), _kinds(dataset, varied[0]))
    np.testing.assert_array_equal(plain[1] == IGNORED, varied[1] == IGNORED)
    counts = varied[1][:, :-1] != IGNORED
    np.testing.assert_array_equal(varied[1][:, :-1][counts], varied[0][:, 1:][counts])
    kinds, change = _kinds(dataset, plain[0]), varied[0] - plain[0]
    reach = {"Pitch": 5, "On": 5, "Off": 5, "Tempo": 2, "Velocity": 3}
    changed = set()
    for name, number in KIND.items():
        for row in range(len(change)):
            amounts = set(change[row][kinds[row] == number].tolist())
            assert len(amounts) <= 1
            assert all(abs(amount) <= reach.get(name, 0) for amount in amounts)
            changed |= {(name, amount) for amount in amounts if amount}
    pitches = {amount for name, amount in changed if name in ("Pitch", "On")}
    assert len(pitches) >= 6
    assert {name for name, _ in changed} >= {"Tempo", "Velocity"}


def test_variation_depends_on_place_and_seed_alone(dataset: Path) -> None:
    def batch(seed: int, counter: int, size: int, rank: int = 0, ranks: int = 1) -> np.ndarray:
        return Loader(dataset, "train", CONTEXT, seed, augmentation=ALL).batch(
            counter, CONTEXT, size, rank, ranks
        )[0]

    whole = batch(1, 5 * CONTEXT, 6)
    np.testing.assert_array_equal(
        np.concatenate([batch(1, 5 * CONTEXT, 6, rank, 4) for rank in range(4)]), whole
    )
    np.testing.assert_array_equal(batch(1, 8 * CONTEXT, 1)[0], whole[3])
    assert (batch(2, 5 * CONTEXT, 6) != whole).any()


def test_shifts_stay_in_the_range_of_the_vocabulary(dataset: Path) -> None:
    extreme = AugmentationConfig(transpose_semitones=24, velocity=64, stretch=1)
    loader = Loader(dataset, "train", CONTEXT, 1, augmentation=extreme)
    plain = Loader(dataset, "train", CONTEXT, 1)
    for counter in range(0, 4 * loader.slots_per_epoch, 16 * CONTEXT):
        inputs = loader.batch(counter, CONTEXT, 16)[0]
        np.testing.assert_array_equal(
            _kinds(dataset, inputs), _kinds(dataset, plain.batch(counter, CONTEXT, 16)[0])
        )


def test_held_out_windows_with_a_stride_predict_every_token_once(dataset: Path) -> None:
    loader = Loader(dataset, "validation", CONTEXT, 1)

    def targets(stride: int | None) -> list[int]:
        batches = loader.validation_batches(CONTEXT, 4, stride=stride)
        return sorted(np.concatenate([t[t != IGNORED] for _, t in batches]).tolist())

    assert targets(None) == targets(CONTEXT // 2) == targets(10)


def test_windows_overlap_and_cover_everything(dataset: Path) -> None:
    half, plain = (Loader(dataset, "train", CONTEXT, 1, overlap=overlap) for overlap in (0.5, 0.0))
    assert 2 * plain.blocks - 3 <= half.blocks <= 2 * plain.blocks
    seen = np.concatenate([half.batch(i * CONTEXT, CONTEXT, 1)[0][0] for i in range(half.blocks)])
    stored = np.fromfile(dataset / "train.bin", "<u2")
    counts, wanted = (np.bincount(tokens, minlength=1000) for tokens in (seen, stored))
    assert (counts[1:] >= wanted[1:]).all()
    # Mid-stream every token occurs twice.
    assert counts[1:].sum() >= 1.9 * wanted[1:].sum() - 2 * CONTEXT


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"augmentation": {"velocity": 1}},
            "spec.dataset: augmentation.velocity 1 is less than one of the tokenizer's loudness levels: "
            "raise it or tokenizer.velocityBins, or leave it out.",
        ),
        (
            {"augmentation": {"stretch": 0.1}, "tokenizer": {"tempoBins": 0}},
            "spec.dataset: augmentation.stretch 0.1 is less than half of one of the tokenizer's tempo "
            "levels: raise it or tokenizer.tempoBins, or leave it out.",
        ),
        (
            {"source": {"raster": {"path": "a.json"}}, "split": {"testFraction": 0.2}},
            "spec.dataset: testFraction has no effect with a source that has its own split: leave it out.",
        ),
    ],
)
def test_settings_without_effect_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DatasetConfig.model_validate({"source": {"directory": {"path": "music"}}} | change)
    assert explain(caught.value, "spec.dataset") == sentence
