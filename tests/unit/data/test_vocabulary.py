"""The vocabulary: one meaning per fingerprint, and a file that is verified on load."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from aurl_trainer.data.config import DatasetConfig, EncodingName, TokenizerConfig
from aurl_trainer.data.errors import DatasetError
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
