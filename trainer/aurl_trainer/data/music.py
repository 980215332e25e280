"""A piece of music as plain arrays, between the readers and the encodings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

DRUMS = 128
"""Program of a drum track; 0–127 are the General MIDI instruments."""

DEFAULT_TEMPO = 500_000
"""Microseconds per quarter note without a tempo event: 120 quarters per minute, the MIDI default."""


def _none() -> Ints:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Music:
    """Notes, tempi and metres of one piece; times in ticks since its start, all arrays int64.

    Notes (N,) are unordered. `track` is an index into `programs` (T,), which are in the order of the file.
    Tempi (K,) and metres (M,) are sorted by time; the last of several at one time applies.
    """

    ticks_per_quarter: int
    start: Ints
    end: Ints
    pitch: Ints
    velocity: Ints
    track: Ints
    programs: Ints
    tempo_time: Ints = field(default_factory=_none)
    tempo: Ints = field(default_factory=_none)
    """Microseconds per quarter note."""
    meter_time: Ints = field(default_factory=_none)
    meter_numerator: Ints = field(default_factory=_none)
    meter_denominator: Ints = field(default_factory=_none)
    pedal_time: Ints = field(default_factory=_none)
    """(E,) times of the sustain pedal's events (controller 64), sorted by time within a track."""
    pedal_down: Ints = field(default_factory=_none)
    """(E,) 1 if the pedal is down from then on, 0 if it is up."""
    pedal_track: Ints = field(default_factory=_none)
    """(E,) index of the event's track."""

    @classmethod
    def from_rows(
        cls,
        ticks_per_quarter: int,
        notes: Sequence[tuple[int, int, int, int, int]],
        programs: Sequence[int],
        tempi: Sequence[tuple[int, int]],
        meters: Sequence[tuple[int, int, int]],
    ) -> Music:
        """Build from rows: (start, end, pitch, velocity, track), (time, tempo), (time, over, under).

        Sorts tempi and metres by time, keeping the order of rows with the same time.
        """
        start, end, pitch, velocity, track = _columns(notes, 5)
        tempo_time, tempo = _columns(sorted(tempi, key=_time), 2)
        meter_time, numerator, denominator = _columns(sorted(meters, key=_time), 3)
        return cls(
            ticks_per_quarter=ticks_per_quarter,
            start=start,
            end=end,
            pitch=pitch,
            velocity=velocity,
            track=track,
            programs=np.array(programs, np.int64),
            tempo_time=tempo_time,
            tempo=tempo,
            meter_time=meter_time,
            meter_numerator=numerator,
            meter_denominator=denominator,
        )

    @property
    def notes(self) -> int:
        """Number of notes."""
        return len(self.start)


def _time(row: tuple[int, ...]) -> int:
    return row[0]


def _columns(rows: Sequence[tuple[int, ...]], width: int) -> Ints:
    return np.array(rows, np.int64).reshape(-1, width).T
