"""Synthetic music for tests and benchmarks: melodies with something to learn in them."""

from __future__ import annotations

import random
from pathlib import Path

import mido


def write_music(directory: Path, pieces: int = 10) -> None:
    """Write MIDI files of melodies that walk up and down a scale."""
    directory.mkdir(parents=True, exist_ok=True)
    source = random.Random(0)
    scale = [48 + 12 * octave + step for octave in range(3) for step in (0, 2, 4, 5, 7, 9, 11)]
    for piece in range(pieces):
        file = mido.MidiFile(ticks_per_beat=480)
        track = mido.MidiTrack()
        file.tracks.append(track)
        place = source.randrange(len(scale))
        for _ in range(48):
            place = max(0, min(len(scale) - 1, place + source.choice((-1, 1, 1, 2))))
            track.append(mido.Message("note_on", note=scale[place], velocity=80, time=0))
            track.append(mido.Message("note_off", note=scale[place], velocity=0, time=240))
        file.save(directory / f"piece-{piece}.mid")
