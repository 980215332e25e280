"""The distance of sampled music to the corpus by feature, and the share of it that is copied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from aurl_trainer.data.music import DRUMS, Music
from aurl_trainer.evaluation.features import SIZES, Histogram, histograms

NGRAM: Final = 12


def overlap(p: Histogram, q: Histogram) -> float:
    """Return the overlapping area of two distributions: 1 if they are equal, 0 if they are disjoint."""
    return float(np.minimum(p / p.sum(), q / q.sum()).sum())


def jensen_shannon(p: Histogram, q: Histogram) -> float:
    """Return the Jensen-Shannon divergence (Lin 1991) in bits: 0 if they are equal, at most 1."""
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    return float(sum(0.5 * (a[a > 0] * np.log2(a[a > 0] / middle[a > 0])).sum() for a in (p, q)))


def compared(samples: Sequence[Music], corpus: Sequence[Music], seed: int = 0) -> dict[str, Any]:
    """Return overlap and divergence of each feature, and their floors: those of the corpus with itself.

    A floor compares as many pieces of the corpus as there are samples, at most half of it, with all others.
    """
    order = np.random.Philox(np.random.SeedSequence([seed])).random_raw(len(corpus)).argsort()
    size = max(1, min(len(samples), len(corpus) // 2))
    part, rest = ([corpus[i] for i in rows.tolist()] for rows in (order[:size], order[size:]))
    of = {"samples": histograms(samples), "corpus": histograms(corpus)}
    of |= {"part": histograms(part), "rest": histograms(rest)}
    report: dict[str, Any] = {}
    for name in SIZES:
        if all(histogram[name].any() for histogram in of.values()):
            mine, all_ = of["samples"][name], of["corpus"][name]
            one, other = of["part"][name], of["rest"][name]
            report[name] = {
                "overlap": overlap(mine, all_),
                "overlapFloor": overlap(one, other),
                "jensenShannon": jensen_shannon(mine, all_),
                "jensenShannonFloor": jensen_shannon(one, other),
            }
    return report


def memorised(pieces: Iterable[Music], corpus: Iterable[Music]) -> float | None:
    """Return the share of the 12-grams of `pieces` that are in `corpus`; None if `pieces` have no 12-gram.

    A 12-gram is twelve successive steps of a track: interval, and time to the next note in 24ths of a
    quarter. So transposed copies and copies at another tempo are found, too.
    """
    known = np.unique(np.concatenate([_grams(piece) for piece in corpus] or [np.zeros(0, np.uint64)]))
    mine = np.concatenate([_grams(piece) for piece in pieces] or [np.zeros(0, np.uint64)])
    return float(np.isin(mine, known).mean()) if len(mine) else None


def _grams(music: Music) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
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
