"""The encoding `raster`: only the pitch of each voice at each time step, voice by voice.

    Bos (Pitch | Rest per voice) per step … Eos

The voices are the tracks in the order of the file. This is the form of the chorale benchmarks since
Boulanger-Lewandowski et al. 2012 (arXiv 1206.6392). It does not distinguish a held note from a repeated one,
and drops metre, tempo, instruments and velocities.

Encoding normalises the music, so that tokens → music → tokens is lossless:
- times are rounded to the nearest step, half up; of simultaneous notes of a voice the highest is kept;
- time runs from the first note to the last, and silences are cut to LONGEST_SILENCE_QUARTERS;
- voices without notes are removed.
"""

from __future__ import annotations

import itertools

import numpy as np

from aurl_trainer.data.music import Ints, Music
from aurl_trainer.data.notes import DecodedPiece, Encoded, grid_notes
from aurl_trainer.data.vocabulary import BOS, EOS, PLAIN_VELOCITY, Vocabulary

LONGEST_SILENCE_QUARTERS = 64
MOST_CELLS = 2**22
"""Maximum tokens of a piece: far more than real music has, and a bound on memory for any file."""


def encode(music: Music, vocabulary: Vocabulary) -> Encoded:
    """Encode music; a piece without usable notes becomes an empty array."""
    config, first = vocabulary.config, vocabulary.first
    notes = grid_notes(music, vocabulary)
    if not len(notes):
        return Encoded(np.zeros(0, np.int64), 0, notes.left_out)
    size = np.clip(notes.end - notes.start, 1, int(vocabulary.durations[-1]))
    start = _without_silence(notes.start, size, LONGEST_SILENCE_QUARTERS * config.positions_per_quarter)
    end = start + size
    fitting = np.flatnonzero(end <= MOST_CELLS // config.tracks)
    owner = np.full((int(end[fitting].max()), config.tracks), -1)
    for row in fitting[
        np.argsort(notes.pitch[fitting], kind="stable")
    ].tolist():  # the highest is written last
        owner[start[row] : end[row], notes.slot[row]] = row
    cells = first["Pitch"] + notes.pitch[owner] - config.lowest_pitch
    cells[owner < 0] = first["Rest"]
    kept = int(np.count_nonzero(np.bincount(owner[owner >= 0])))
    left_out = notes.left_out | {
        "under another of its voice": len(fitting) - kept,
        "after the longest piece": len(notes) - len(fitting),
    }
    return Encoded(np.concatenate([[BOS], cells.reshape(-1), [EOS]]), kept, left_out)


def _without_silence(start: Ints, size: Ints, longest: int) -> Ints:
    """Return the starts, moved so that they begin at 0 and no silence is longer than `longest` steps."""
    order = np.argsort(start, kind="stable")
    begin, end = start[order], np.maximum.accumulate((start + size)[order])
    silence = begin[1:] - end[:-1]
    cut = np.append(begin[0], np.maximum(silence - longest, 0)).cumsum()
    moved = np.empty_like(start)
    moved[order] = begin - cut
    return moved


def decode(tokens: Ints, vocabulary: Vocabulary) -> Music:
    """Decode tokens (N,) up to Eos: each run of a pitch is a note. An incomplete step is padded with rests.

    A run longer than the vocabulary's longest note becomes several notes.
    """
    config, longest = vocabulary.config, int(vocabulary.durations[-1])
    first, voices = vocabulary.first["Pitch"], config.tracks
    ends = np.flatnonzero(tokens == EOS)
    cells = tokens[: ends[0]] if len(ends) else tokens
    cells = cells[cells > EOS]
    cells = np.append(cells, np.full(-len(cells) % voices, vocabulary.first["Rest"])).reshape(-1, voices)
    piece = DecodedPiece()
    piece.programs = [0] * voices
    for voice, line in enumerate(cells.T):
        edges = np.append(np.flatnonzero(np.diff(line, prepend=-1)), len(line)).tolist()
        for begin, end in itertools.pairwise(edges):
            pitch = int(line[begin]) - first
            if not 0 <= pitch < vocabulary.count["Pitch"]:
                continue
            for at in range(begin, end, longest):
                until = min(end, at + longest)
                piece.notes.append((at, until, pitch + config.lowest_pitch, PLAIN_VELOCITY, voice))
    return piece.music(vocabulary)
