"""Music that occurs in other music, as sequences of twelve steps of a track, transposed or not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aurl_trainer.data.music import DRUMS, Music

NGRAM: Final = 12
MOST_NGRAMS: Final = 2**22
"""Maximum number of hashes in an index, of 8 bytes each."""
SIMILAR: Final = 0.75
"""Share of known 12-grams from which a piece counts as a copy or version of known music."""

Hashes = NDArray[np.uint64]


class NgramIndex:
    """The distinct 12-grams of a corpus of any size, as hashes in at most about 200 MiB.

    A 12-gram is twelve successive steps of a track: interval, and time to the next note in 24ths of a
    quarter. So transposed copies and copies at another tempo are found, too.

    Above MOST_NGRAMS, only hashes below a limit are kept, and the limit is halved until they fit. 12-grams of
    queries are selected by the same limit, so the shares are unbiased estimates over the whole corpus, and
    copies still score 100 %. With 64-bit hashes, even a full index takes fewer than one 12-gram in 10¹² for a
    copy by mistake.
    """

    def __init__(self, corpus: Iterable[Music], most: int = MOST_NGRAMS) -> None:
        self._most = most
        self._limit = np.uint64(2**64 - 1)
        self._known = np.zeros(0, np.uint64)
        added: list[Hashes] = []
        waiting = 0
        for piece in corpus:
            added.append(self._selected(piece))
            waiting += len(added[-1])
            if waiting > most // 4:
                self._merge(added)
                added, waiting = [], 0
        self._merge(added)

    def share(self, pieces: Iterable[Music]) -> float | None:
        """Return the share of the 12-grams of `pieces` that are in the corpus; None if they have none."""
        mine = np.concatenate([self._selected(piece) for piece in pieces] or [np.zeros(0, np.uint64)])
        return float(np.isin(mine, self._known).mean()) if len(mine) else None

    def similar(self, pieces: Iterable[Music]) -> int:
        """Return the number of pieces with at least the share SIMILAR of their 12-grams in the corpus."""
        return sum((self.share([piece]) or 0.0) >= SIMILAR for piece in pieces)

    def _selected(self, piece: Music) -> Hashes:
        hashes = _grams(piece)
        return hashes[hashes <= self._limit]

    def _merge(self, added: list[Hashes]) -> None:
        self._known = np.unique(np.concatenate([self._known, *added]))
        while len(self._known) > self._most:
            self._limit >>= np.uint64(1)
            self._known = self._known[self._known <= self._limit]


def _grams(music: Music) -> Hashes:
    """Return a hash of each 12-gram of a piece."""
    found = []
    for track in range(len(music.programs)):
        rows = np.flatnonzero(music.track == track)
        rows = rows[np.lexsort((music.pitch[rows], music.start[rows]))]
        interval = np.diff(music.pitch[rows]) * (music.programs[track] != DRUMS)
        drum = music.pitch[rows][1:] * (music.programs[track] == DRUMS)
        wait = np.diff(music.start[rows]) * 24 // music.ticks_per_quarter
        step = ((interval + 128 + drum) * 4096 + np.minimum(wait, 4095)).astype(np.uint64)
        if len(step) < NGRAM:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(step, NGRAM)
        value = np.zeros(len(windows), np.uint64)
        for column in windows.T:
            value = (value ^ column) * np.uint64(0x9E3779B97F4A7C15)
            value ^= value >> np.uint64(29)
        found.append(value)
    return np.concatenate(found) if found else np.zeros(0, np.uint64)
