"""Notes in the form that all encodings share: filtered, quantised, without copies and overlaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aurl_trainer.data.music import DEFAULT_TEMPO, DRUMS, Ints, Music
from aurl_trainer.data.vocabulary import BOS, Vocabulary


@dataclass(frozen=True)
class Encoded:
    """The tokens (N,) int64 of a piece, the number of encoded notes, and of omitted notes by reason."""

    tokens: Ints
    notes: int
    left_out: dict[str, int]


@dataclass(frozen=True)
class GridNotes:
    """Notes (N,) with times in steps; `slot` is the track number, and the drums' is after all others."""

    start: Ints
    end: Ints
    slot: Ints
    pitch: Ints
    velocity: Ints
    programs: list[int]
    """Program of each melodic slot."""
    left_out: dict[str, int]
    """Number of omitted notes by reason."""

    def __len__(self) -> int:
        return len(self.start)


def steps(tick: Ints, ticks_per_quarter: int, resolution: int) -> Ints:
    """Round ticks to the nearest step, half up."""
    return (2 * tick * resolution + ticks_per_quarter) // (2 * ticks_per_quarter)


def grid_notes(music: Music, vocabulary: Vocabulary) -> GridNotes:
    """Select the notes that the tokenizer keeps and quantise their times; keeps the order of the file."""
    config = vocabulary.config
    is_drum = music.programs[music.track] == DRUMS
    pitch = np.where(is_drum, vocabulary.drum_pitch[music.pitch], music.pitch)
    low = np.where(is_drum, config.lowest_drum, config.lowest_pitch)
    high = np.where(is_drum, config.highest_drum, config.highest_pitch)
    in_range = (pitch >= low) & (pitch <= high)
    unwanted = is_drum & (not vocabulary.count["Drum"])
    rows = np.flatnonzero(in_range & ~unwanted)
    left_out = {"pitch out of range": int((~in_range & ~unwanted).sum()), "drums": int(unwanted.sum())}
    end = _sustained(music) if config.sustain_pedal else music.end
    slot, programs = _slots(music, rows, config.tracks)
    resolution, ticks = config.positions_per_quarter, music.ticks_per_quarter
    return GridNotes(
        start=steps(music.start[rows], ticks, resolution),
        end=steps(end[rows], ticks, resolution),
        slot=slot,
        pitch=pitch[rows],
        velocity=music.velocity[rows],
        programs=programs,
        left_out=left_out,
    )


def _sustained(music: Music) -> Ints:
    """Return (N,) the ends of the notes; those that end while the pedal is down end when it is released."""
    end = music.end.copy()
    last = int(end.max(initial=0))
    for track in np.unique(music.pedal_track).tolist():
        rows = np.flatnonzero(music.track == track)
        events = music.pedal_track == track
        time, down = music.pedal_time[events], music.pedal_down[events]
        state = np.append(0, down)[np.searchsorted(time, end[rows], side="right")]
        releases = np.append(time[down == 0], last)
        release = releases[np.minimum(np.searchsorted(releases[:-1], end[rows], "right"), len(releases) - 1)]
        end[rows] = np.where(state == 1, np.maximum(end[rows], release), end[rows])
    return end


def _slots(music: Music, rows: Ints, tracks: int) -> tuple[Ints, list[int]]:
    """Return the slot of each note in `rows` (drums: `tracks`) and the program of each melodic slot."""
    used = np.flatnonzero(np.bincount(music.track[rows], minlength=1))
    drums = music.programs[used] == DRUMS
    number = np.minimum(np.cumsum(~drums) - 1, tracks - 1)
    slot_of_track = np.zeros(len(music.programs), np.int64)
    slot_of_track[used] = np.where(drums, tracks, number)
    return slot_of_track[music.track[rows]], music.programs[used][~drums].tolist()[:tracks]


def regular_notes(
    notes: GridNotes, vocabulary: Vocabulary, nearest: Ints, within: Ints
) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """Return start, slot, pitch, velocity level and duration of each note, sorted by the first three.

    Removes copies and overlaps: of equal notes at one time the longest is kept, and an earlier note ends
    where an equal one begins. `nearest` and `within` (longest + 1,) map steps to a duration number: the
    nearest, and the longest that is not longer.
    """
    longest = len(nearest) - 1
    start, slot, pitch, velocity = notes.start, notes.slot, notes.pitch, notes.velocity
    duration = nearest[np.clip(notes.end - start, 1, longest)]
    note = slot * 128 + pitch
    # One key instead of three: a start has at most 47 bits, a note 14. Files are nearly sorted already.
    key = start * (1 << 14) + note
    order = np.argsort(key, kind="stable")
    if (np.diff(key[order]) == 0).any():
        order = np.lexsort((-velocity, -duration, key))
        order = order[np.append(True, np.diff(key[order]) != 0)]
    start, slot, pitch, velocity, duration, note = (
        a[order] for a in (start, slot, pitch, velocity, duration, note)
    )
    by_note = np.argsort(note.astype(np.int16), kind="stable")  # sorted by start already
    gap = np.full(len(start), longest)
    same = note[by_note][1:] == note[by_note][:-1]
    gap[by_note[:-1][same]] = np.minimum(np.diff(start[by_note])[same], longest)
    duration = np.minimum(duration, within[gap])
    if vocabulary.config.velocity_bins:
        velocity = vocabulary.velocity_bin(velocity)
    return start, slot, pitch, velocity, duration


def tempo_levels(music: Music, vocabulary: Vocabulary) -> tuple[Ints, Ints]:
    """Return time in steps and number of each tempo, first the default at 0. Requires tempo_bins > 0."""
    time = steps(music.tempo_time, music.ticks_per_quarter, vocabulary.config.positions_per_quarter)
    tempo = vocabulary.nearest_tempo(np.concatenate([[DEFAULT_TEMPO], music.tempo]))
    return np.concatenate([[0], time]), tempo


class DecodedPiece:
    """A piece under decoding: rows with times in steps, and tracks in the order in which they appear."""

    def __init__(self) -> None:
        self.notes: list[tuple[int, int, int, int, int]] = []
        """(start, end, pitch, velocity, track)."""
        self.tempi: list[tuple[int, int]] = []
        """(time, microseconds per quarter)."""
        self.meters: list[tuple[int, int, int]] = []
        """(time, numerator, denominator)."""
        self.programs: list[int] = []
        """Program of each track; DRUMS for the drums."""
        self.track = -1
        """The current track, an index into `programs`; -1 before the first."""
        self._index: dict[int, int] = {}  # number of the Track token, -1 for Drums

    @property
    def on_drums(self) -> bool:
        """True if the current track is the drums."""
        return self.track >= 0 and self.programs[self.track] == DRUMS

    def select_track(self, kind: str, value: int) -> None:
        """Select the track of a token `Track` (number `value`) or `Drums`."""
        number = value if kind == "Track" else -1
        if number not in self._index:
            self._index[number] = len(self.programs)
            self.programs.append(0 if kind == "Track" else DRUMS)
        self.track = self._index[number]

    def set_program(self, program: int) -> None:
        """Set the program of the current track, unless it is the drums."""
        if self.track >= 0 and not self.on_drums:
            self.programs[self.track] = program

    def music(self, vocabulary: Vocabulary) -> Music:
        """Return the music, with a whole number of ticks per step, about 480 per quarter note."""
        tick = vocabulary.ticks_per_step
        return Music.from_rows(
            tick * vocabulary.config.positions_per_quarter,
            [(begin * tick, end * tick, pitch, loud, track) for begin, end, pitch, loud, track in self.notes],
            self.programs,
            [(time * tick, tempo) for time, tempo in self.tempi],
            [(time * tick, over, under) for time, over, under in self.meters],
        )


def distinct(ascending: Ints) -> Ints:
    """Return the distinct values of a sorted array (N,), far faster than np.unique."""
    new = np.append(True, ascending[1:] != ascending[:-1])[: len(ascending)]
    return np.asarray(ascending[new], np.int64)


def header(vocabulary: Vocabulary, programs: list[int], drums: bool) -> Ints:
    """Return the header Bos (Track [Program])… [Drums]."""
    tokens = [BOS]
    for number, program in enumerate(programs):
        tokens.append(vocabulary.first["Track"] + number)
        if vocabulary.config.programs:
            tokens.append(vocabulary.first["Program"] + program)
    if drums:
        tokens.append(vocabulary.first["Drums"])
    return np.array(tokens, np.int64)
