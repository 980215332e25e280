"""The tokenizer against a plain reference, and round trips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aurl_trainer.data.config import TokenizerConfig
from aurl_trainer.data.errors import BadMidiError
from aurl_trainer.data.grammar import first_fault
from aurl_trainer.data.midi import read_midi, read_with_mido, read_with_symusic, write_midi
from aurl_trainer.data.music import Music
from aurl_trainer.data.score import read_score
from aurl_trainer.data.tokenizer import decode, encode
from aurl_trainer.data.vocabulary import Vocabulary
from unit.data.reference_tokenizer import reference_tokens
from unit.data.wild_midi import midi_files, tune

VOCABULARIES = [
    Vocabulary(TokenizerConfig()),
    Vocabulary(
        TokenizerConfig(positions_per_quarter=4, velocity_bins=0, tempo_bins=0, programs=False, drums=False)
    ),
    Vocabulary(
        TokenizerConfig(
            positions_per_quarter=7, tracks=2, tempo_bins=3, velocity_bins=5, max_duration_quarters=3
        )
    ),
]
OTHER_ENCODINGS = [
    Vocabulary(TokenizerConfig(encoding="events")),
    Vocabulary(
        TokenizerConfig(
            encoding="events",
            positions_per_quarter=4,
            tracks=2,
            programs=False,
            velocity_bins=0,
            tempo_bins=0,
            max_duration_quarters=2,
        )
    ),
    Vocabulary(
        TokenizerConfig(encoding="raster", positions_per_quarter=4, tracks=4, max_duration_quarters=2)
    ),
]


@given(data=midi_files(), vocabulary=st.sampled_from(VOCABULARIES))
@example(data=tune(60, 60, 64), vocabulary=VOCABULARIES[0])
@example(data=tune(36, 38, 200 - 120, channel=9), vocabulary=VOCABULARIES[0])
@settings(max_examples=100, deadline=None)
def test_tokens_equal_the_reference_and_survive_a_round_trip_through_midi(
    data: bytes, vocabulary: Vocabulary
) -> None:
    try:
        music = read_with_symusic(data, "wild")
    except BadMidiError:
        assert reference_tokens(data, vocabulary) == []
        return
    tokens = encode(music, vocabulary).tokens
    assert [vocabulary.tokens[token] for token in tokens] == reference_tokens(data, vocabulary)
    np.testing.assert_array_equal(encode(read_with_mido(data, "wild"), vocabulary).tokens, tokens)
    if len(tokens):
        assert first_fault(tokens, vocabulary) == -1
        again = encode(read_midi(write_midi(decode(tokens, vocabulary)), "again"), vocabulary)
        np.testing.assert_array_equal(again.tokens, tokens)


@given(data=midi_files())
@settings(max_examples=50, deadline=None)
def test_every_encoding_survives_a_round_trip_and_follows_its_grammar(data: bytes) -> None:
    try:
        music = read_with_symusic(data, "wild")
    except BadMidiError:
        return
    for vocabulary in OTHER_ENCODINGS:
        encoded = encode(music, vocabulary)
        tokens = encoded.tokens
        np.testing.assert_array_equal(encode(read_with_mido(data, "wild"), vocabulary).tokens, tokens)
        assert encoded.notes + sum(encoded.left_out.values()) == music.notes
        assert first_fault(tokens, vocabulary) == -1
        if len(tokens):
            decoded = decode(tokens, vocabulary)
            assert int((decoded.end - decoded.start).max()) <= (
                vocabulary.ticks_per_step * int(vocabulary.durations[-1])
            )
            again = encode(read_midi(write_midi(decoded), "again"), vocabulary)
            np.testing.assert_array_equal(again.tokens, tokens)


@pytest.mark.parametrize(
    ("vocabulary", "text"),
    [
        (
            VOCABULARIES[0],
            "Bos Track_0 Program_40 Bar Meter_4/4 Position_0 Tempo_120.0 "
            "Track_0 Pitch_60 Velocity_78 Duration_12 Position_12 Pitch_64 Velocity_78 Duration_12 Eos",
        ),
        (
            OTHER_ENCODINGS[0],
            "Bos Track_0 Program_40 Tempo_120.0 Track_0 Velocity_78 On_60 Shift_12 Off_60 On_64 Shift_12 "
            "Off_64 Eos",
        ),
        (
            OTHER_ENCODINGS[2],
            "Bos " + 4 * "Pitch_60 Rest Rest Rest " + 4 * "Pitch_64 Rest Rest Rest " + "Eos",
        ),
    ],
    ids=["remi", "events", "raster"],
)
def test_a_piece_is_encoded_as_documented(vocabulary: Vocabulary, text: str) -> None:
    tokens = encode(read_midi(tune(60, 64, program=40), "tune"), vocabulary).tokens
    assert " ".join(vocabulary.tokens[token] for token in tokens) == text


def test_endless_notes_and_silences_become_few_tokens() -> None:
    far = 2**33
    music = Music.from_rows(1, [(0, far, 60, 80, 0), (2 * far, 2 * far + 1, 62, 80, 0)], [0], [], [])
    for vocabulary in (VOCABULARIES[0], *OTHER_ENCODINGS):
        assert 5 < len(encode(music, vocabulary).tokens) < 1500


def test_omitted_notes_are_counted() -> None:
    music = read_midi(tune(10, 60, 120), "tune")
    encoded = encode(music, VOCABULARIES[0])
    assert encoded.notes == 1
    assert encoded.left_out == {"pitch out of range": 2, "drums": 0, "copies of a note": 0}
    drums = encode(read_midi(tune(36, 38, channel=9), "drums"), VOCABULARIES[1])
    assert (len(drums.tokens), drums.left_out) == (0, {"pitch out of range": 0, "drums": 2})
    chord = Music.from_rows(1, [(0, 4, 60, 80, 0), (0, 4, 64, 80, 0)], [0], [], [])
    assert encode(chord, OTHER_ENCODINGS[2]).left_out["under another of its voice"] == 1


@given(
    vocabulary=st.sampled_from([VOCABULARIES[0], OTHER_ENCODINGS[0], OTHER_ENCODINGS[2]]),
    numbers=st.lists(st.integers(0, 10_000), max_size=60),
)
@settings(max_examples=100, deadline=None)
def test_any_tokens_decode_to_music_that_can_be_written(vocabulary: Vocabulary, numbers: list[int]) -> None:
    tokens = [number % vocabulary.size for number in numbers]
    music = decode(np.array([1, *tokens], np.int64), vocabulary)
    data = write_midi(music)
    if music.notes:
        assert read_with_mido(data, "any").notes > 0


@pytest.mark.parametrize("work", ["bach/bwv66.6.mxl", "bach/bwv269.mxl"])
def test_the_pickup_of_a_chorale_is_at_the_end_of_the_first_bar(work: str) -> None:
    from music21 import corpus

    vocabulary = VOCABULARIES[0]
    music = read_score(Path(str(corpus.getWork(work))), work)
    tokens = encode(music, vocabulary).tokens
    names = [vocabulary.tokens[token] for token in tokens]
    assert len(music.programs) == 4
    # Both begin with one beat before the first full bar.
    first_note = next(i for i, name in enumerate(names) if name.startswith("Pitch"))
    place = [name for name in names[:first_note] if name.startswith("Position")][-1]
    meter = next(name for name in names if name.startswith("Meter"))
    assert (meter, place) == {
        "bach/bwv66.6.mxl": ("Meter_4/4", "Position_36"),
        "bach/bwv269.mxl": ("Meter_3/4", "Position_24"),
    }[work]
    assert first_fault(tokens, vocabulary) == -1
