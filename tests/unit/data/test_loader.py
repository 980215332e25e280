"""The order of the data: everything once per epoch, independent of batches and ranks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aurl_trainer.data.config import DatasetConfig
from aurl_trainer.data.loader import IGNORED, Loader
from aurl_trainer.data.prepare import prepare
from aurl_trainer.data.vocabulary import BOS, EOS, PAD
from unit.data.wild_midi import tune

CONTEXT = 32


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("volume")
    music = root / "music"
    music.mkdir()
    for number in range(12):
        # Lengths that do not fit blocks, and pitches that identify the pieces.
        pitches = [40 + number + step for step in range(3 + 2 * number)]
        (music / f"{number:02}.mid").write_bytes(tune(*pitches))
    config = DatasetConfig.model_validate(
        {"source": {"directory": {"path": "music"}}, "split": {"validationFraction": 0.25}, "workers": 1}
    )
    return prepare(config, root / "job", root, lambda done, total, dropped: None).path


def _loader(dataset: Path, seed: int = 3) -> Loader:
    return Loader(dataset, "train", CONTEXT, seed)


def _stream(loader: Loader, seed_epoch_slots: range, length: int) -> tuple[np.ndarray, np.ndarray]:
    batches = [loader.batch(slot, length, 1) for slot in seed_epoch_slots]
    return np.concatenate([b[0][0] for b in batches]), np.concatenate([b[1][0] for b in batches])


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_every_token_is_an_input_and_a_target_once_per_epoch(dataset: Path, epoch: int) -> None:
    loader = _loader(dataset)
    begin = epoch * loader.slots_per_epoch
    inputs, targets = _stream(loader, range(begin, begin + loader.slots_per_epoch, CONTEXT), CONTEXT)
    tokens = np.fromfile(dataset / "train.bin", "<u2").astype(np.int64)
    assert Counter(inputs[inputs != PAD].tolist()) == Counter(tokens.tolist())
    assert Counter(targets[targets != IGNORED].tolist()) == Counter(tokens[tokens != BOS].tolist())
    assert int((inputs == PAD).sum()) == loader.slots_per_epoch - len(tokens)
    assert bool((targets[inputs == PAD] == IGNORED).all())
    # The token after each input, wherever there is a target.
    after = {EOS: IGNORED}
    real = inputs != PAD
    assert bool((targets[real & (inputs == EOS)] == after[EOS]).all())
    follows = real[:-1] & real[1:] & (np.arange(1, len(inputs)) % CONTEXT != 0) & (inputs[1:] != BOS)
    np.testing.assert_array_equal(targets[:-1][follows], inputs[1:][follows])


def test_epochs_and_seeds_differ_in_order_and_block_boundaries(dataset: Path) -> None:
    def blocks(seed: int, epoch: int) -> list[bytes]:
        loader = _loader(dataset, seed)
        first = epoch * loader.slots_per_epoch
        return [loader.batch(first + i * CONTEXT, CONTEXT, 1)[0].tobytes() for i in range(loader.blocks)]

    orders = [blocks(3, 0), blocks(3, 1), blocks(4, 0)]
    assert blocks(3, 0) == orders[0]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert orders[one] != orders[other]
        assert set(orders[one]) != set(orders[other])


@given(
    counter=st.integers(0, 3000),
    length=st.sampled_from([8, 16, 32]),
    batch=st.integers(1, 9),
    world_size=st.sampled_from([1, 2, 3, 4]),
)
@settings(max_examples=60, deadline=None)
def test_any_layout_gives_the_same_samples_from_any_counter(
    dataset: Path, counter: int, length: int, batch: int, world_size: int
) -> None:
    loader = _loader(dataset)
    whole = loader.batch(counter, length, batch)
    parts = [loader.batch(counter, length, batch, rank, world_size) for rank in range(world_size)]
    for side in (0, 1):
        np.testing.assert_array_equal(np.concatenate([part[side] for part in parts]), whole[side])
    # One sample at a time, by a new loader: resuming needs the counter alone.
    for row in range(batch):
        fresh = _loader(dataset)
        slot = fresh.advance(counter, length, row) if row else counter
        np.testing.assert_array_equal(fresh.batch(slot, length, 1)[0][0], whole[0][row])


def test_a_block_is_served_as_consecutive_shorter_samples(dataset: Path) -> None:
    loader = _loader(dataset)
    whole = loader.batch(0, CONTEXT, 4)
    for length in (8, 16):
        parts = loader.batch(0, length, 4 * CONTEXT // length)
        np.testing.assert_array_equal(parts[0].reshape(4, CONTEXT), whole[0])
        np.testing.assert_array_equal(parts[1].reshape(4, CONTEXT), whole[1])


def test_the_counter_is_rounded_up_when_the_length_grows(dataset: Path) -> None:
    loader = _loader(dataset)
    after = loader.advance(0, 8, 3)
    assert (after, loader.advance(after, CONTEXT, 2)) == (24, CONTEXT + 2 * CONTEXT)
    np.testing.assert_array_equal(loader.batch(after, CONTEXT, 2)[0], loader.batch(CONTEXT, CONTEXT, 2)[0])


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("length", [8, 32, 128])
def test_validation_predicts_every_held_out_token_once_from_its_own_piece(
    dataset: Path, world_size: int, length: int
) -> None:
    loader = Loader(dataset, "validation", 128, 0)
    ranks = [list(loader.validation_batches(length, 4, rank, world_size)) for rank in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    shapes = {inputs.shape for batches in ranks for inputs, _ in batches}
    assert shapes == {(-(-4 // world_size), length)}
    found: Counter[int] = Counter()
    for batches in ranks:
        for inputs, targets in batches:
            valid = targets != IGNORED
            found.update(targets[valid].tolist())
            inside = valid[:, :-1] & valid[:, 1:]
            np.testing.assert_array_equal(targets[:, :-1][inside], inputs[:, 1:][inside])
            # A piece may begin only where a window begins.
            assert not (inputs[:, 1:] == BOS).any()
    tokens = np.fromfile(dataset / "validation.bin", "<u2").astype(np.int64)
    assert found == Counter(tokens[tokens != BOS].tolist())


def test_a_length_that_does_not_divide_the_context_is_refused(dataset: Path) -> None:
    with pytest.raises(ValueError, match="sequence length 24 does not divide the context length 32"):
        _loader(dataset).batch(0, 24, 1)
