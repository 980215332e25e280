"""Draw the next token of each piece from logits. Pure NumPy, independent of device and batch size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aurl_trainer.data.music import Bools, Ints
from aurl_trainer.sampling.config import SamplingConfig

Floats = NDArray[np.float64]
_BITS: Final = 53


def draw(logits: Floats, allowed: Bools, config: SamplingConfig, uniform: Floats) -> Ints:
    """Draw one token (B,) per row of `logits` (B, V) among the `allowed` (B, V) by inverting `uniform` (B,).

    Filters in the order of SamplingConfig; the most likely allowed token is always kept. Sources: top-k, Fan
    et al. 2018; top-p, Holtzman et al. 2020; min-p, Nguyen et al. 2024.
    """
    logits = np.where(allowed, logits, -np.inf)
    if config.temperature == 0:
        return np.asarray(logits.argmax(axis=1), np.int64)
    logits = (logits - logits.max(axis=1, keepdims=True)) / config.temperature
    if 0 < config.top_k < logits.shape[1]:
        least = np.partition(logits, -config.top_k, axis=1)[:, -config.top_k, None]
        logits = np.where(logits >= least, logits, -np.inf)
    weight = np.exp(logits)
    if config.top_p < 1:
        descending = -np.sort(-weight, axis=1)
        above = np.cumsum(descending, axis=1) - descending
        kept = above < config.top_p * weight.sum(axis=1, keepdims=True)
        least = np.take_along_axis(descending, kept.sum(axis=1, keepdims=True) - 1, axis=1)
        weight = np.where(weight >= least, weight, 0.0)
    if config.min_p > 0:
        weight = np.where(weight >= config.min_p * weight.max(axis=1, keepdims=True), weight, 0.0)
    total = np.cumsum(weight, axis=1)
    # Strictly above, so that a token of weight 0 is never drawn for any `uniform`.
    return np.asarray((total > (uniform * total[:, -1])[:, None]).argmax(axis=1), np.int64)


def uniforms(key: Sequence[int], count: int, *, offset: float = 0.0) -> Floats:
    """Return `count` numbers (k + offset) / 2⁵³ with random integers k in [0, 2⁵³).

    They depend on the arguments alone, on every version of NumPy.
    """
    # NumPy's compatibility promise covers the raw output of a bit generator, unlike its distributions.
    raw = np.random.Philox(np.random.SeedSequence(list(key))).random_raw(count)
    return (np.asarray(raw >> np.uint64(64 - _BITS), np.float64) + offset) * 2.0**-_BITS
