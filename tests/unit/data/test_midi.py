"""Reading MIDI: everything the format allows, and robustness against broken files."""

from __future__ import annotations

import io
import struct

import mido
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aurl_trainer.data.config import TokenizerConfig
from aurl_trainer.data.errors import BadMidiError
from aurl_trainer.data.midi import read_midi, read_with_mido, read_with_symusic, write_midi
from aurl_trainer.data.music import DRUMS, Music
from aurl_trainer.data.notes import grid_notes
from aurl_trainer.data.tokenizer import decode, encode
from aurl_trainer.data.vocabulary import Vocabulary
from unit.data.wild_midi import midi_files, tune


def _file(kind: int, *chunks: bytes, division: int = 480) -> bytes:
    body = b"".join(b"MTrk" + struct.pack(">I", len(chunk)) + chunk for chunk in chunks)
    return b"MThd" + struct.pack(">IHHH", 6, kind, len(chunks), division) + body


END = b"\x00\xff\x2f\x00"
RUNNING_STATUS = b"\x00\x90\x3c\x40" + b"\x60\x3e\x40" + b"\x60\x3c\x00" + b"\x00\x3e\x00" + END
CONDUCTOR = b"\x00\xff\x51\x03\x06\x1a\x80" + b"\x00\xff\x58\x04\x03\x03\x18\x08" + END
DRUM_LINE = b"\x00\x99\x24\x40\x60\x89\x24\x00" + END


@pytest.mark.parametrize("read", [read_with_symusic, read_with_mido])
@pytest.mark.parametrize(
    ("data", "notes", "programs"),
    [
        (_file(0, RUNNING_STATUS), [(0, 192, 60), (96, 192, 62)], [0]),
        (
            _file(1, CONDUCTOR, RUNNING_STATUS, DRUM_LINE),
            [(0, 96, 36), (0, 192, 60), (96, 192, 62)],
            [0, DRUMS],
        ),
        (tune(60, channel=3, program=40), [(0, 480, 60)], [40]),
    ],
    ids=["running status", "type 1 with drums", "program"],
)
def test_both_readers_agree_on_the_format(
    read: object, data: bytes, notes: list[tuple[int, int, int]], programs: list[int]
) -> None:
    assert callable(read)
    music = read(data, "file")
    found = sorted(zip(music.start.tolist(), music.end.tolist(), music.pitch.tolist(), strict=True))
    assert (found, music.programs.tolist()) == (notes, programs)


def test_tempo_and_metre_are_read() -> None:
    music = read_midi(_file(1, CONDUCTOR, RUNNING_STATUS), "file")
    assert music.tempo.tolist() == [400_000]
    assert (music.meter_numerator.tolist(), music.meter_denominator.tolist()) == ([3], [8])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "damaged"),
        (b"RIFF" + tune(60), "damaged"),
        (tune(60, 62, 64)[:-9], "damaged"),
        (_file(1, CONDUCTOR), "no notes"),
        (_file(0, RUNNING_STATUS, division=0xE728), "damaged"),
        (_file(2, RUNNING_STATUS, DRUM_LINE), "of type 2, with 2 separate pieces; save each as a file"),
    ],
    ids=["empty", "no header", "truncated", "no notes", "SMPTE time", "type 2"],
)
def test_a_bad_file_is_named_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadMidiError, match=reason) as caught:
        read_midi(data, "songs/a.mid")
    assert caught.value.path == "songs/a.mid"
    assert str(caught.value).startswith("songs/a.mid is not readable as music: ")


@given(
    data=midi_files(),
    changes=st.lists(st.tuples(st.integers(0, 4000), st.binary(max_size=4)), min_size=1, max_size=8),
)
@settings(max_examples=200, deadline=None)
def test_damaged_bytes_give_music_or_a_named_error(data: bytes, changes: list[tuple[int, bytes]]) -> None:
    damaged = bytearray(data)
    for place, content in changes:
        at = place % (len(damaged) + 1)
        damaged[at : at + max(1, len(content))] = content
    try:
        music = read_midi(bytes(damaged), "wild")
    except BadMidiError as error:
        assert error.path == "wild"
        return
    assert music.notes > 0
    assert int(music.start.min()) >= 0
    assert bool((music.end >= music.start).all())


def test_a_type_2_file_of_one_track_is_a_piece() -> None:
    assert read_midi(_file(2, RUNNING_STATUS), "file").pitch.tolist() == [60, 62]


@pytest.mark.parametrize(
    ("programs", "places"),
    [
        ([0] * 3 + [DRUMS], 4),
        ([*list(range(15)), DRUMS], 16),
        ([5, 7] * 10, 2),
        ([*list(range(15)), DRUMS, 3, 3], 16),
        (list(range(40)), 40),
    ],
)
def test_tracks_share_a_channel_only_with_the_same_program(programs: list[int], places: int) -> None:
    rows = [(0, 480, 40 + track, 80, track) for track in range(len(programs))]
    data = write_midi(Music.from_rows(480, rows, programs, [], []))
    used: dict[tuple[int, int], set[int]] = {}
    for chunk in mido.MidiFile(file=io.BytesIO(data)).tracks[1:]:
        port = next((message.port for message in chunk if message.type == "midi_port"), 0)
        for message in chunk:
            if message.type == "program_change":
                used.setdefault((port, message.channel), set()).add(message.program)
    assert len(used) == places
    assert all(len(found) == 1 for found in used.values())
    for read in (read_with_symusic, read_with_mido):
        back = read(data, "back")
        assert back.programs[back.track].tolist() == programs
        assert back.pitch.tolist() == [40 + track for track in range(len(programs))]


def test_a_written_file_ends_every_note_before_an_equal_one_begins() -> None:
    zeros = np.zeros(3, np.int64)
    music = Music(
        ticks_per_quarter=480,
        start=np.array([0, 240, 0]),
        end=np.array([960, 480, 100]),
        pitch=np.array([60, 60, 72]),
        velocity=zeros + 80,
        track=np.array([0, 0, 1]),
        programs=np.array([5, DRUMS]),
    )
    file = mido.MidiFile(file=io.BytesIO(write_midi(music, ["made by a test"])))
    assert [message.text for message in file.tracks[0] if message.type == "text"] == ["made by a test"]
    sounding: set[tuple[int, int]] = set()
    for message in file:
        if message.type == "note_on":
            assert (message.channel, message.note) not in sounding
            sounding.add((message.channel, message.note))
        elif message.type == "note_off":
            sounding.remove((message.channel, message.note))
    assert not sounding
    back = read_midi(write_midi(music), "back")
    assert sorted(zip(back.start.tolist(), back.end.tolist(), back.pitch.tolist(), strict=True)) == [
        (0, 100, 72),
        (0, 240, 60),
        (240, 480, 60),
    ]


def _performance() -> bytes:
    """Return a file with the pedal down from 96 to 288 and from 400 on, at 96 ticks per quarter note."""
    file = mido.MidiFile(ticks_per_beat=96)
    timed = [
        (0, mido.Message("note_on", note=60, velocity=64)),
        (48, mido.Message("note_off", note=60)),  # before the pedal
        (96, mido.Message("control_change", control=64, value=64)),
        (100, mido.Message("note_on", note=62, velocity=64)),
        (120, mido.Message("note_off", note=62)),
        (130, mido.Message("control_change", control=64, value=127)),
        (140, mido.Message("control_change", control=1, value=0)),  # another controller
        (192, mido.Message("note_on", note=62, velocity=64)),
        (200, mido.Message("note_off", note=62)),
        (240, mido.Message("note_on", note=64, velocity=64)),
        (288, mido.Message("control_change", control=64, value=63)),
        (336, mido.Message("note_off", note=64)),  # after the release
        (400, mido.Message("control_change", control=64, value=100)),
        (400, mido.Message("note_on", note=65, velocity=64)),
        (410, mido.Message("note_off", note=65)),
        (480, mido.Message("note_on", note=67, velocity=64)),
        (576, mido.Message("note_off", note=67)),
    ]
    now, track = 0, mido.MidiTrack()
    for time, message in timed:
        track.append(message.copy(time=time - now))
        now = time
    file.tracks.append(track)
    out = io.BytesIO()
    file.save(file=out)
    return out.getvalue()


@pytest.mark.parametrize("read", [read_with_symusic, read_with_mido])
def test_the_sustain_pedal_holds_notes_if_the_tokenizer_wants_it(read: object) -> None:
    assert callable(read)
    music = read(_performance(), "file")

    def lengths(*, sustain: bool) -> list[tuple[int, int]]:
        config = TokenizerConfig(positions_per_quarter=96, sustain_pedal=sustain)
        notes = grid_notes(music, Vocabulary(config))
        return sorted(zip(notes.start.tolist(), notes.end.tolist(), strict=True))

    assert lengths(sustain=False) == [(0, 48), (100, 120), (192, 200), (240, 336), (400, 410), (480, 576)]
    held = [(0, 48), (100, 288), (192, 288), (240, 336), (400, 576), (480, 576)]
    assert lengths(sustain=True) == held
    # The encoding ends the first D where the second begins.
    vocabulary = Vocabulary(TokenizerConfig(positions_per_quarter=96, sustain_pedal=True))
    back = decode(encode(music, vocabulary).tokens, vocabulary)
    scale = back.ticks_per_quarter // 96
    ends = dict(zip((back.start // scale).tolist(), (back.end // scale).tolist(), strict=True))
    assert (ends[100], ends[192]) == (192, 288)
