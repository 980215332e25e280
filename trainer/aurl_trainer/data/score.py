"""Read a score with music21 straight into arrays, six times as fast as through its MIDI export."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from aurl_trainer.data.errors import BadMidiError
from aurl_trainer.data.music import Music
from aurl_trainer.data.vocabulary import PLAIN_VELOCITY

TICKS_PER_QUARTER = 10_080  # exact for halves down to 1/32, thirds, fifths and sevenths


def read_score(path: Path, name: str) -> Music:
    """Read a MusicXML, Humdrum or ABC file, without playing repeats. Raises BadMidiError.

    A pickup is moved to the end of a full first bar, so that bar lines are where the score has them.
    """
    from music21 import converter, stream

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            score: Any = converter.parse(path, forceSource=True, storePickle=False)
            if isinstance(score, stream.Opus):
                raise BadMidiError(name, "it is a collection of several works")
            return _arrays(score, name)
    except BadMidiError:
        raise
    # The parsers of music21 raise errors of any type; all mean that this file cannot be read.
    except Exception as error:
        text = " ".join(str(error).split())[:200].rstrip(".")
        raise BadMidiError(name, f"music21 cannot read it: {type(error).__name__} {text}".rstrip()) from error


def _arrays(score: Any, name: str) -> Music:
    parts = list(score.parts) or [score]
    pickup = max((_pickup(part) for part in parts), default=0)
    notes: list[tuple[int, int, int, int, int]] = []
    programs: list[int] = []
    for part in parts:
        found = _notes(part)
        if found:
            notes += [
                (start + pickup, end + pickup, pitch, loud, len(programs))
                for start, end, pitch, loud in found
            ]
            instrument = part.getInstrument()
            programs.append(int(instrument.midiProgram or 0) if instrument is not None else 0)
    if not notes:
        raise BadMidiError(name, "it has no notes")
    # A metre at the start also applies to the pickup bar.
    meters = [
        (0 if sign.offset == 0 else _ticks(sign.offset) + pickup, sign.numerator, sign.denominator)
        for sign in parts[0].flatten().getElementsByClass("TimeSignature")
    ]
    tempi = []
    for mark in score.flatten().getElementsByClass("MetronomeMark"):
        per_minute = mark.getQuarterBPM() if mark.number or mark.numberSounding else None
        if per_minute:
            tempi.append(
                (_ticks(mark.offset) + (pickup if mark.offset else 0), round(60e6 / float(per_minute)))
            )
    return Music.from_rows(TICKS_PER_QUARTER, notes, programs, tempi, meters)


def _ticks(quarters: Any) -> int:
    return round(float(quarters) * TICKS_PER_QUARTER)


def _pickup(part: Any) -> int:
    first = part.getElementsByClass("Measure").first()
    return _ticks(first.paddingLeft) if first is not None else 0


def _notes(part: Any) -> list[tuple[int, int, int, int]]:
    """Return (start, end, pitch, velocity) of each sounding note, with tied notes joined."""
    open_ties: dict[int, int] = {}  # pitch → index of the note to extend
    found: list[tuple[int, int, int, int]] = []
    for element in part.flatten().notes:
        if "ChordSymbol" in element.classes or element.duration.isGrace:
            continue
        start, end = _ticks(element.offset), _ticks(element.offset + element.quarterLength)
        for note in element.notes if element.isChord else (element,):
            if not hasattr(note, "pitch"):  # unpitched percussion
                continue
            pitch, tie = int(note.pitch.midi), note.tie or element.tie
            loud = int(note.volume.velocity or PLAIN_VELOCITY)
            index = open_ties.get(pitch)
            if tie is not None and tie.type != "start" and index is not None and found[index][1] == start:
                found[index] = (found[index][0], end, pitch, found[index][3])
            else:
                index = len(found)
                found.append((start, end, pitch, loud))
            if tie is not None and tie.type != "stop":
                open_ties[pitch] = index
            else:
                open_ties.pop(pitch, None)
    return [note for note in found if note[1] > note[0] and 0 <= note[2] <= 127]
