"""Features of pieces as histograms, without music theory or learned parts.

The choice follows Yang and Lerch 2020 (On the evaluation of generative models in music) and adds features of
order: transitions and self-similarity. Times are in quarter notes, independent of tempo.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aurl_trainer.data.music import DRUMS, Ints, Music

Histogram = NDArray[np.float64]
_GRID: Final = 12  # parts of a quarter note
_LONGEST_QUARTERS: Final = 8
_WINDOW_QUARTERS: Final = 4
_LAGS: Final = 8
_SIMILARITIES: Final = 10
SIZES: Final = {
    "pitch": 256,  # drums from 128 on
    "pitchClass": 12,
    "interval": 49,  # between successive notes of a track, -24 to 24 semitones
    "pitchClassTransition": 144,
    "interOnsetInterval": _GRID * _LONGEST_QUARTERS + 1,
    "duration": _GRID * _LONGEST_QUARTERS + 1,
    "velocity": 32,
    "polyphony": 33,  # notes that sound at an onset
    "density": 65,  # notes in four quarters
    "selfSimilarity": _LAGS * _SIMILARITIES,  # of the pitch classes of four quarters, to earlier ones
}


def histograms(pieces: Iterable[Music]) -> dict[str, Histogram]:
    """Return the histogram of each feature over all pieces; all zeros if no piece has the feature."""
    total = {name: np.zeros(size) for name, size in SIZES.items()}
    for piece in pieces:
        if piece.notes:
            for name, values in _features(piece).items():
                total[name] += np.bincount(values, minlength=SIZES[name])[: SIZES[name]]
    return total


def _features(music: Music) -> dict[str, Ints]:
    """Return the values of each feature in one piece, as bin numbers."""
    order = np.lexsort((music.pitch, music.start, music.track))
    start, end = music.start[order], music.end[order]
    pitch, track = music.pitch[order], music.track[order]
    drum = music.programs[track] == DRUMS
    quarter = music.ticks_per_quarter
    same = (track[1:] == track[:-1]) & ~drum[1:]
    onsets = np.unique(start)
    notes_before = np.searchsorted(np.sort(start), onsets, side="right")
    ended = np.searchsorted(np.sort(end), onsets, side="right")
    window = start // (_WINDOW_QUARTERS * quarter)
    return {
        "pitch": pitch + 128 * drum,
        "pitchClass": pitch[~drum] % 12,
        "interval": np.clip(pitch[1:] - pitch[:-1], -24, 24)[same] + 24,
        "pitchClassTransition": (pitch[:-1] % 12 * 12 + pitch[1:] % 12)[same],
        "interOnsetInterval": _in_grid(np.diff(onsets), quarter),
        "duration": _in_grid((end - start)[~drum], quarter),
        "velocity": music.velocity // 4,
        "polyphony": np.clip(notes_before - ended, 0, 32),
        "density": np.clip(np.bincount(window - window.min()), 0, 64),
        "selfSimilarity": _self_similarity(pitch[~drum] % 12, window[~drum]),
    }


def _in_grid(ticks: Ints, quarter: int) -> Ints:
    return np.minimum((2 * ticks * _GRID + quarter) // (2 * quarter), _GRID * _LONGEST_QUARTERS)


def _self_similarity(pitch_class: Ints, window: Ints) -> Ints:
    """Return the bins of lag and cosine of the pitch classes of windows that are 1 to _LAGS apart."""
    if not len(window):
        return window
    numbers = np.unique(window, return_inverse=True)[1].reshape(-1)
    profile = np.zeros((int(numbers.max()) + 1, 12))
    np.add.at(profile, (numbers, pitch_class), 1.0)
    profile /= np.linalg.norm(profile, axis=1, keepdims=True)
    found = []
    for lag in range(1, min(_LAGS + 1, len(profile))):
        cosine = (profile[lag:] * profile[:-lag]).sum(axis=1)
        level = np.minimum((cosine * _SIMILARITIES).astype(np.int64), _SIMILARITIES - 1)
        found.append((lag - 1) * _SIMILARITIES + level)
    return np.concatenate(found) if found else np.zeros(0, np.int64)
