"""A 5-gram model of tokens, a baseline that a trained model must beat.

Interpolated Witten-Bell smoothing (Witten and Bell 1991; Chen and Goodman 1999, section 2.6):
P(w | h) = (c(h, w) + T(h) · P(w | h')) / (c(h) + T(h)), with T(h) the number of distinct tokens seen after h
and h' the context without its oldest token, down to the uniform distribution over the vocabulary.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aurl_trainer.data.music import Bools, Ints
from aurl_trainer.data.shards import Split
from aurl_trainer.data.vocabulary import BOS, PAD

ORDER = 5


def ngram_nats(train: Split, held_out: Split, vocabulary_size: int, *, most_tokens: int = 5_000_000) -> float:
    """Return nats per token of `held_out`, without Bos, under a model of the first tokens of `train`."""
    end = int(train.offsets[np.searchsorted(train.offsets, most_tokens, side="right") - 1])
    end = end or int(train.offsets[-1])
    tokens = np.concatenate([train.tokens[:end], held_out.tokens]).astype(np.int64)
    known = np.arange(len(tokens)) < end
    begins = tokens == BOS
    wanted = ~known & ~begins & (tokens != PAD)
    learned = known & ~begins
    probability = np.full(int(wanted.sum()), 1.0 / vocabulary_size)
    context = np.zeros(len(tokens), np.int64)
    for order in range(ORDER):
        if order:
            context = _longer(context, tokens, begins)
        probability = _interpolated(context, tokens, learned, wanted, probability)
    return float(-np.log(probability).mean())


def _longer(context: Ints, tokens: Ints, begins: Bools) -> Ints:
    """Return the number of each position's context, one token longer; pieces start without context."""
    pair = np.full(len(tokens), -1, np.int64)
    pair[1:] = context[:-1] * (int(tokens.max()) + 1) + tokens[:-1]
    pair[begins] = -1
    return np.unique(pair, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _interpolated(
    context: Ints,
    tokens: Ints,
    learned: Bools,
    wanted: Bools,
    shorter: NDArray[np.float64],
) -> NDArray[np.float64]:
    both = np.unique(context * (int(tokens.max()) + 1) + tokens, return_inverse=True)[1].reshape(-1)
    seen_both = np.bincount(both[learned], minlength=int(both.max()) + 1)
    contexts = int(context.max()) + 1
    seen = np.bincount(context[learned], minlength=contexts)
    one_of_each = np.unique(both[learned], return_index=True)[1]
    different = np.bincount(context[learned][one_of_each], minlength=contexts)
    here = context[wanted]
    weight = seen[here] + different[here]
    mixed = (seen_both[both[wanted]] + different[here] * shorter) / np.maximum(weight, 1)
    return np.where(weight > 0, mixed, shorter)
