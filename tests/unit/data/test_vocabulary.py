"""The vocabulary: one meaning per fingerprint, and a file that is verified on load."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from aurl_trainer.data.config import DatasetConfig, EncodingName, TokenizerConfig
from aurl_trainer.data.errors import DatasetError
from aurl_trainer.data.music import DRUMS, Music
from aurl_trainer.data.tokenizer import decode, encode
from aurl_trainer.data.vocabulary import BOS, EOS, KINDS, PAD, Vocabulary
from aurl_trainer.schema import explain


@pytest.mark.parametrize("encoding", ["remi", "events", "raster"])
def test_kinds_have_adjacent_ids_in_order(encoding: EncodingName) -> None:
    vocabulary = Vocabulary(TokenizerConfig(encoding=encoding))
    assert [vocabulary.tokens[token] for token in (PAD, BOS, EOS)] == ["Pad", "Bos", "Eos"]
    assert len(set(vocabulary.tokens)) == vocabulary.size < 2**16
    for token, name in enumerate(vocabulary.tokens):
        kind = name.split("_")[0]
        assert KINDS[vocabulary.kind_of[token]] == kind
        assert vocabulary.first[kind] + vocabulary.value_of[token] == token


@pytest.mark.parametrize("bins", [1, 5, 32, 100, 127])
def test_the_value_of_a_level_maps_to_the_level(bins: int) -> None:
    vocabulary = Vocabulary(TokenizerConfig(velocity_bins=bins, tempo_bins=bins))
    np.testing.assert_array_equal(vocabulary.velocity_bin(vocabulary.velocities), np.arange(bins))
    np.testing.assert_array_equal(vocabulary.nearest_tempo(vocabulary.tempi), np.arange(bins))
    assert 500_000 in vocabulary.tempi
    assert vocabulary.velocity_bin(np.array([1, 127])).tolist() == [0, bins - 1]


def test_a_saved_vocabulary_is_the_same(tmp_path: Path) -> None:
    vocabulary = Vocabulary(TokenizerConfig(velocity_bins=4))
    path = tmp_path / "vocabulary.json"
    path.write_text(vocabulary.to_json())
    loaded = Vocabulary.load(path)
    assert (loaded.tokens, loaded.fingerprint) == (vocabulary.tokens, vocabulary.fingerprint)
    assert Vocabulary(TokenizerConfig(velocity_bins=5)).fingerprint != vocabulary.fingerprint


@pytest.mark.parametrize("change", ["rename", "cut", "encoding", "key"])
def test_a_changed_vocabulary_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "vocabulary.json"
    content = json.loads(Vocabulary(TokenizerConfig()).to_json())
    if change == "rename":
        content["tokens"][9] = "Meter_9/9"
    elif change == "encoding":
        content["encoding"] = 0
    elif change == "key":
        content["tokenizer"]["positionsPerBeat"] = 4
    text = json.dumps(content)
    path.write_text(text[:100] if change == "cut" else text)
    with pytest.raises(DatasetError, match=r"vocabulary\.json"):
        Vocabulary.load(path)


@pytest.mark.parametrize(
    ("dataset", "sentence"),
    [
        ({}, "spec.dataset.source: required key is missing."),
        (
            {"source": {}},
            "spec.dataset.source: set exactly one of music21Corpus, directory, archive, tokens, raster.",
        ),
        (
            {"source": {"directory": {"path": "a"}, "music21Corpus": {}}},
            "spec.dataset.source: set exactly one of music21Corpus, directory, archive, tokens, raster.",
        ),
        (
            {"source": {"folder": {}}},
            "spec.dataset.source.folder: unknown key; check its spelling.",
        ),
        (
            {"source": {"music21Corpus": {"collection": "composer"}}},
            "spec.dataset.source.music21Corpus: "
            "composer must be set with collection: composer, and only then.",
        ),
        (
            {"source": {"music21Corpus": {}}, "tokenizer": {"velocityBins": 300}},
            "spec.dataset.tokenizer.velocityBins: input should be less than or equal to 127, not 300.",
        ),
        (
            {"source": {"music21Corpus": {}}, "tokenizer": {"lowestPitch": 90, "highestPitch": 60}},
            "spec.dataset.tokenizer: lowestPitch 90 is above highestPitch 60; swap them.",
        ),
        (
            {"source": {"music21Corpus": {}}, "tokenizer": {"encoding": "raster", "tempoBins": 8}},
            "spec.dataset.tokenizer: tempoBins has no effect with encoding: raster, "
            "which holds pitches alone: leave it out.",
        ),
    ],
)
def test_a_wrong_dataset_is_explained_with_its_path(dataset: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DatasetConfig.model_validate(dataset)
    assert explain(caught.value, "spec.dataset") == sentence


def test_the_schema_has_no_unions_as_kubernetes_requires() -> None:
    text = json.dumps(DatasetConfig.model_json_schema())
    assert "anyOf" not in text
    assert "null" not in text


def test_the_drum_settings_leave_existing_vocabularies_as_they_are() -> None:
    fingerprint = "d205173690b2866422780b421c17918503c1572e169c462bf33f9d76b215a1ea"
    assert Vocabulary(TokenizerConfig()).fingerprint == fingerprint
    others = [TokenizerConfig(lowest_drum=22), TokenizerConfig.model_validate({"drumMap": [HI_HAT]})]
    assert len({fingerprint, *(Vocabulary(config).fingerprint for config in others)}) == 3


HI_HAT = {"pitch": 22, "to": 42}


@pytest.mark.parametrize("encoding", ["remi", "events"])
def test_drums_outside_general_midi_are_kept_or_mapped(encoding: EncodingName) -> None:
    rows = [(480 * beat, 480 * beat + 240, pitch, 80, 0) for beat, pitch in enumerate((22, 26, 36, 22))]
    music = Music.from_rows(480, rows, [DRUMS], [], [])

    def kept(**settings: object) -> tuple[list[int], int]:
        vocabulary = Vocabulary(TokenizerConfig.model_validate({"encoding": encoding} | settings))
        encoded = encode(music, vocabulary)
        return decode(encoded.tokens, vocabulary).pitch.tolist(), encoded.left_out["pitch out of range"]

    assert kept() == ([36], 3)
    assert kept(lowestDrum=22) == ([22, 26, 36, 22], 0)
    assert kept(drumMap=[HI_HAT]) == ([42, 36, 42], 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drums": False, "lowestDrum": 22}, "lowestDrum has no effect with drums: false"),
        ({"encoding": "raster", "drumMap": [HI_HAT]}, "drumMap has no effect with encoding: raster"),
        ({"lowestDrum": 60, "highestDrum": 50}, "lowestDrum 60 is above highestDrum 50; swap them"),
        ({"drumMap": [{"pitch": 30, "to": 22}]}, "drumMap maps 30 to 22, outside 27 to 87"),
        ({"drumMap": [HI_HAT, HI_HAT]}, "drumMap maps a pitch twice"),
    ],
)
def test_contradictory_drum_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TokenizerConfig.model_validate(settings)
    assert message in explain(caught.value, "")
