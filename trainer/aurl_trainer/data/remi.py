"""The encoding `remi`: bars, positions in the bar and the notes of each track. Vectorised over notes.

A piece is encoded as (brackets: where needed or configured)

    Bos (Track [Program])… [Drums]            header: the tracks of the piece
    per bar:       Bar [Meter]
    per position:  Position [Tempo]
    per note:      [Track | Drums] Pitch | Drum [Velocity] Duration
    Eos

Notes are sorted by position, track and pitch; the track is given at the first note of a bar and where it
changes. Bars and positions follow REMI (Huang and Yang 2020, arXiv 2002.00212).

Encoding normalises the music, so that tokens → music → tokens is lossless:
- times are rounded to the nearest step, half up; durations to the nearest in the vocabulary;
- of equal notes at one time the longest is kept; an earlier note ends where an equal one begins;
- a change of metre takes effect at the next bar line; metres outside the vocabulary become 4/4;
- empty bars before the first note are dropped, and all but the last MAX_EMPTY_BARS of a longer run;
- everything after the last note is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aurl_trainer.data.music import Ints, Music
from aurl_trainer.data.notes import (
    DecodedPiece,
    Encoded,
    distinct,
    grid_notes,
    header,
    regular_notes,
    steps,
    tempo_levels,
)
from aurl_trainer.data.vocabulary import (
    BAR,
    EOS,
    FALLBACK_METER,
    KINDS,
    PLAIN_VELOCITY,
    Vocabulary,
)

MAX_EMPTY_BARS = 8


def encode(music: Music, vocabulary: Vocabulary) -> Encoded:
    """Encode music; a piece without usable notes becomes an empty array."""
    config = vocabulary.config
    notes = grid_notes(music, vocabulary)
    if not len(notes):
        return Encoded(np.zeros(0, np.int64), 0, notes.left_out)
    start, slot, pitch, velocity, duration = regular_notes(
        notes, vocabulary, vocabulary.nearest_duration, vocabulary.duration_within
    )

    grid = _Grid.of(music, vocabulary)
    bar, position = grid.locate(start)
    kept_bars = _kept_bars(bar)
    meter = grid.meter_of(kept_bars)
    bar = np.searchsorted(kept_bars, bar)
    tempo_bar, tempo_position, tempo = _tempo_changes(
        music, vocabulary, grid, kept_bars, (bar[-1], position[-1])
    )

    body = _assemble(
        vocabulary,
        (bar, position, slot, pitch, velocity, duration),
        meter,
        (tempo_bar, tempo_position, tempo),
    )
    begin = header(vocabulary, notes.programs, bool((slot == config.tracks).any()))
    left_out = notes.left_out | {"copies of a note": len(notes) - len(start)}
    return Encoded(np.concatenate([begin, body, [EOS]]), len(start), left_out)


@dataclass(frozen=True)
class _Grid:
    """The bar lines, as sections of one metre that each begin at a bar line."""

    start: Ints  # (S,) steps
    first_bar: Ints  # (S,)
    meter: Ints  # (S,) number of the metre
    length: Ints  # (S,) steps per bar

    @classmethod
    def of(cls, music: Music, vocabulary: Vocabulary) -> _Grid:
        fallback = vocabulary.meter_index[FALLBACK_METER]
        times = steps(music.meter_time, music.ticks_per_quarter, vocabulary.config.positions_per_quarter)
        start, first_bar, meter = [0], [0], [fallback]
        for time, numerator, denominator in zip(
            times.tolist(), music.meter_numerator.tolist(), music.meter_denominator.tolist(), strict=True
        ):
            new = vocabulary.meter_index.get((numerator, denominator), fallback)
            length = int(vocabulary.bar_lengths[meter[-1]])
            bars = -(-(time - start[-1]) // length)
            if bars <= 0:  # at the start of this section: replaces its metre
                meter[-1] = new
            elif new != meter[-1]:
                start.append(start[-1] + bars * length)
                first_bar.append(first_bar[-1] + bars)
                meter.append(new)
        numbers = np.array(meter, np.int64)
        return cls(
            np.array(start, np.int64), np.array(first_bar, np.int64), numbers, vocabulary.bar_lengths[numbers]
        )

    def locate(self, step: Ints) -> tuple[Ints, Ints]:
        """Return the bar of each step and its position in the bar."""
        stretch = np.searchsorted(self.start, step, side="right") - 1
        bars, position = np.divmod(step - self.start[stretch], self.length[stretch])
        return self.first_bar[stretch] + bars, position

    def meter_of(self, bar: Ints) -> Ints:
        return self.meter[np.searchsorted(self.first_bar, bar, side="right") - 1]


def _kept_bars(bar: Ints) -> Ints:
    """Return the bars to encode, ascending: those with notes, and up to MAX_EMPTY_BARS before each."""
    used = distinct(bar)
    empty_before = np.minimum(np.diff(used, prepend=used[0] - 1) - 1, MAX_EMPTY_BARS)
    run = empty_before + 1
    within = np.arange(int(run.sum())) - np.repeat(np.cumsum(run) - run, run)
    return np.asarray(np.repeat(used - empty_before, run) + within, np.int64)


def _tempo_changes(
    music: Music, vocabulary: Vocabulary, grid: _Grid, kept_bars: Ints, last: tuple[int, int]
) -> tuple[Ints, Ints, Ints]:
    """Return (kept bar, position, number) of the tempo changes up to the last note, the first at (0, 0)."""
    if not vocabulary.config.tempo_bins:
        return (np.zeros(0, np.int64),) * 3
    time, tempo = tempo_levels(music, vocabulary)
    bar, position = grid.locate(time)
    # A change in a dropped bar takes effect at the next kept one.
    kept = np.searchsorted(kept_bars, bar)
    left_out = kept_bars[np.minimum(kept, len(kept_bars) - 1)] != bar
    position = np.where(left_out, 0, position)
    until = (kept < last[0]) | ((kept == last[0]) & (position <= last[1]))
    position, tempo, kept = position[until], tempo[until], kept[until]
    latest = np.ones(len(kept), bool)
    latest[:-1] = (kept[1:] != kept[:-1]) | (position[1:] != position[:-1])
    kept, position, tempo = kept[latest], position[latest], tempo[latest]
    changed = np.ones(len(kept), bool)
    changed[1:] = tempo[1:] != tempo[:-1]
    return kept[changed], position[changed], tempo[changed]


def _assemble(
    vocabulary: Vocabulary,
    notes: tuple[Ints, Ints, Ints, Ints, Ints, Ints],
    meter: Ints,
    tempi: tuple[Ints, Ints, Ints],
) -> Ints:
    """Write every token to its position in the output, which is the number of tokens before it."""
    first, config = vocabulary.first, vocabulary.config
    bar, position, slot, pitch, velocity, duration = notes
    tempo_bar, tempo_position, tempo = tempi
    width = vocabulary.count["Position"]
    note_key, tempo_key = bar * width + position, tempo_bar * width + tempo_position
    places = distinct(
        np.sort(np.concatenate([distinct(note_key), tempo_key]), kind="stable")
    )  # bar and position of every Position token
    place_of_note, place_of_tempo = np.searchsorted(places, note_key), np.searchsorted(places, tempo_key)

    new_track = np.ones(len(bar), bool)
    new_track[1:] = (bar[1:] != bar[:-1]) | (slot[1:] != slot[:-1])
    new_meter = np.ones(len(meter), bool)
    new_meter[1:] = meter[1:] != meter[:-1]
    has_tempo = np.zeros(len(places), np.int64)
    has_tempo[place_of_tempo] = 1
    note_size = new_track + 2 + (config.velocity_bins > 0)
    place_size, bar_size = 1 + has_tempo, 1 + new_meter.astype(np.int64)

    # Tokens before note i, place i and bar i, each counting its own kind only; the last entry is the total.
    before_note, before_place, before_bar = (
        np.concatenate([[0], np.cumsum(size)]) for size in (note_size, place_size, bar_size)
    )
    place_bar = places // width
    first_note_of_place = np.searchsorted(place_of_note, np.arange(len(places)))
    at_bar = np.searchsorted(place_bar, np.arange(len(meter)))
    bar_at = (
        before_bar[:-1] + before_place[at_bar] + before_note[np.append(first_note_of_place, len(bar))[at_bar]]
    )
    place_at = before_bar[place_bar + 1] + before_place[:-1] + before_note[first_note_of_place]
    note_at = before_bar[bar + 1] + before_place[place_of_note + 1] + before_note[:-1]

    out = np.empty(int(before_note[-1] + before_place[-1] + before_bar[-1]), np.int64)
    out[bar_at] = BAR
    out[bar_at[new_meter] + 1] = first["Meter"] + meter[new_meter]
    out[place_at] = first["Position"] + places % width
    out[place_at[place_of_tempo] + 1] = first["Tempo"] + tempo
    drum = slot == config.tracks
    out[note_at[new_track]] = np.where(drum, first["Drums"], first["Track"] + slot)[new_track]
    pitch_at = note_at + new_track
    out[pitch_at] = (
        np.where(drum, first["Drum"] - config.lowest_drum, first["Pitch"] - config.lowest_pitch) + pitch
    )
    if config.velocity_bins:
        out[pitch_at + 1] = first["Velocity"] + velocity
    out[note_at + note_size - 1] = first["Duration"] + duration
    return out


def decode(tokens: Ints, vocabulary: Vocabulary) -> Music:
    """Decode tokens (N,) up to Eos. Accepts any tokens and skips those that break the grammar."""
    config, durations = vocabulary.config, vocabulary.durations
    piece = DecodedPiece()
    meter = vocabulary.meter_index[FALLBACK_METER]
    bar_start, bar_length, position = 0, 0, 0
    pitch, loudness = -1, -1
    kinds, values = vocabulary.kind_of[tokens], vocabulary.value_of[tokens]
    for kind, value in zip(kinds.tolist(), values.tolist(), strict=True):
        name = KINDS[kind]
        if name == "Eos":
            break
        if name == "Bar":
            bar_start, position, piece.track = bar_start + bar_length, 0, -1
            bar_length = int(vocabulary.bar_lengths[meter])
        elif name == "Meter":
            meter, bar_length = value, int(vocabulary.bar_lengths[value])
            piece.meters.append((bar_start, *vocabulary.meters[value]))
        elif name == "Position":
            position = value
        elif name == "Tempo":
            piece.tempi.append((bar_start + position, int(vocabulary.tempi[value])))
        elif name in ("Track", "Drums"):
            piece.select_track(name, value)
        elif name == "Program":
            piece.set_program(value)
        elif name in ("Pitch", "Drum"):
            pitch = value + (config.lowest_pitch if name == "Pitch" else config.lowest_drum)
            fits = piece.track >= 0 and piece.on_drums == (name == "Drum")
            pitch, loudness = (pitch if fits else -1), (-1 if config.velocity_bins else PLAIN_VELOCITY)
        elif name == "Velocity":
            loudness = int(vocabulary.velocities[value])
        elif name == "Duration" and piece.track >= 0 and pitch >= 0 and loudness >= 0:
            onset = bar_start + position
            piece.notes.append((onset, onset + int(durations[value]), pitch, loudness, piece.track))
            pitch = -1
    return piece.music(vocabulary)
