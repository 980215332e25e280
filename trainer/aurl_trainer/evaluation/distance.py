"""The distance of sampled music to the corpus by feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aurl_trainer.data.music import Music
from aurl_trainer.evaluation.features import SIZES, Histogram, histograms


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
