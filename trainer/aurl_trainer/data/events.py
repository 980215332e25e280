"""The encoding `events`: note-ons, note-offs and time shifts, without bars. Vectorised over notes.

A piece is encoded as (brackets: where needed or configured)

    Bos (Track [Program])… [Drums]              header: the tracks of the piece
    per time:      Shift… [Tempo]
    per note-off:  [Track] Off
    per note-on:   [Track | Drums] [Velocity] On | Drum
    Eos

Track and velocity are given only where they change. Offs and ons of one time are sorted by track and pitch.
This follows the performance encodings (Oore et al. 2018, arXiv 1808.03715).

Encoding normalises the music, in addition to what `notes` does, so that tokens → music → tokens is lossless:
- time starts at the first note, and gaps without events are cut to LONGEST_GAP_QUARTERS;
- drums have no note-off: each sounds for one step;
- metres are dropped.
"""

from __future__ import annotations

import numpy as np

from aurl_trainer.data.music import Bools, Ints, Music
from aurl_trainer.data.notes import DecodedPiece, Encoded, grid_notes, header, regular_notes, tempo_levels
from aurl_trainer.data.vocabulary import EOS, KINDS, PLAIN_VELOCITY, Vocabulary

LONGEST_GAP_QUARTERS = 64
"""At least the longest possible note."""
_TEMPO, _OFF, _ON = 0, 1, 2  # the order of events at one time


def encode(music: Music, vocabulary: Vocabulary) -> Encoded:
    """Encode music; a piece without usable notes becomes an empty array."""
    config = vocabulary.config
    notes = grid_notes(music, vocabulary)
    if not len(notes):
        return Encoded(np.zeros(0, np.int64), 0, notes.left_out)
    as_it_is = np.arange(int(vocabulary.durations[-1]) + 1)
    start, slot, pitch, velocity, duration = regular_notes(notes, vocabulary, as_it_is, as_it_is)
    drum = slot == config.tracks
    end = (start + duration)[~drum]
    last = max(int(start[-1]), int(end.max(initial=0)))
    tempo_time, tempo = _tempo_changes(music, vocabulary, int(start[0]), last)

    first, lowest = vocabulary.first, config.lowest_pitch
    on = np.where(drum, first["Drum"] + pitch - config.lowest_drum, first["On"] + pitch - lowest)
    off = (first["Off"] + pitch - lowest)[~drum]
    sizes = len(tempo), len(end), len(start)
    time = np.concatenate([tempo_time, end, start])
    kind = np.repeat([_TEMPO, _OFF, _ON], sizes)
    track = np.concatenate([np.full(len(tempo), -1), slot[~drum], slot])
    level = np.concatenate([np.full(len(tempo) + len(end), -1), velocity])
    token = np.concatenate([first["Tempo"] + tempo, off, on])
    # Within a kind and track, the ids of tokens ascend with the pitch.
    order = np.lexsort((token, track, kind, time))
    body = _assemble(vocabulary, *(values[order] for values in (time, kind, track, level, token)))
    begin = header(vocabulary, notes.programs, bool(drum.any()))
    left_out = notes.left_out | {"copies of a note": len(notes) - len(start)}
    return Encoded(np.concatenate([begin, body, [EOS]]), len(start), left_out)


def _tempo_changes(music: Music, vocabulary: Vocabulary, first: int, last: int) -> tuple[Ints, Ints]:
    """Return time and number of the tempo changes from the first to the last event, beginning at `first`."""
    if not vocabulary.config.tempo_bins:
        return (np.zeros(0, np.int64),) * 2
    time, tempo = tempo_levels(music, vocabulary)
    time = np.maximum(time, first)
    time, tempo = time[time <= last], tempo[time <= last]
    latest = np.append(time[1:] != time[:-1], True)
    time, tempo = time[latest], tempo[latest]
    changed = np.append(True, tempo[1:] != tempo[:-1])
    return time[changed], tempo[changed]


def _assemble(vocabulary: Vocabulary, time: Ints, kind: Ints, track: Ints, level: Ints, token: Ints) -> Ints:
    """Write every event to its position in the output, after its Shift, Track and Velocity tokens."""
    config, first, most = vocabulary.config, vocabulary.first, vocabulary.count["Shift"]
    gap = np.minimum(np.diff(time, prepend=time[0]), LONGEST_GAP_QUARTERS * config.positions_per_quarter)
    shifts = -(-gap // most)
    new_track = _changes(track, kind != _TEMPO)
    new_level = _changes(level, (kind == _ON) & (config.velocity_bins > 0))
    size = shifts + new_track + new_level + 1
    place = np.cumsum(size) - size + shifts
    out = np.full(int(size.sum()), first["Shift"] + most - 1)
    later = gap > 0
    out[place[later] - 1] = first["Shift"] + (gap - (shifts - 1) * most)[later] - 1
    named = np.where(track == config.tracks, first["Drums"], first["Track"] + track)
    out[place[new_track]] = named[new_track]
    place = place + new_track
    out[place[new_level]] = first["Velocity"] + level[new_level]
    out[place + new_level] = token
    return out


def _changes(values: Ints, counted: Bools) -> Bools:
    """Return a mask of the counted values that differ from the previous counted one; includes the first."""
    rows = np.flatnonzero(counted)
    new = np.append(True, values[rows][1:] != values[rows][:-1])[: len(rows)]
    changes = np.zeros(len(values), np.bool_)
    changes[rows] = new
    return changes


def decode(tokens: Ints, vocabulary: Vocabulary) -> Music:
    """Decode tokens (N,) up to Eos. Accepts any tokens and skips those that break the grammar.

    Notes without an end or longer than the vocabulary's longest are cut to that length.
    """
    config, longest = vocabulary.config, int(vocabulary.durations[-1])
    piece = DecodedPiece()
    time, loudness = 0, (-1 if config.velocity_bins else PLAIN_VELOCITY)
    sounding: dict[tuple[int, int], tuple[int, int]] = {}  # (track, pitch) → start, velocity
    kinds, values = vocabulary.kind_of[tokens], vocabulary.value_of[tokens]

    def end_note(track: int, pitch: int) -> None:
        begin, velocity = sounding.pop((track, pitch))
        if time > begin:
            piece.notes.append((begin, min(time, begin + longest), pitch, velocity, track))

    for kind, value in zip(kinds.tolist(), values.tolist(), strict=True):
        name = KINDS[kind]
        if name == "Eos":
            break
        if name == "Shift":
            time += value + 1
        elif name == "Tempo":
            piece.tempi.append((time, int(vocabulary.tempi[value])))
        elif name in ("Track", "Drums"):
            piece.select_track(name, value)
        elif name == "Velocity":
            loudness = int(vocabulary.velocities[value])
        elif name == "Program":
            piece.set_program(value)
        elif piece.track < 0:
            continue
        elif name in ("On", "Off") and not piece.on_drums:
            key = piece.track, value + config.lowest_pitch
            if key in sounding:
                end_note(*key)
            if name == "On" and loudness >= 0:
                sounding[key] = time, loudness
        elif name == "Drum" and piece.on_drums and loudness >= 0:
            piece.notes.append((time, time + 1, value + config.lowest_drum, loudness, piece.track))
    time += 1  # so that notes that begin last have a length
    for track, pitch in list(sounding):
        end_note(track, pitch)
    return piece.music(vocabulary)
