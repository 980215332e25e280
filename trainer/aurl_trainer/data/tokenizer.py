"""Music to tokens and back, in the encoding of the vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from aurl_trainer.data import events, raster, remi
from aurl_trainer.data.config import EncodingName
from aurl_trainer.data.music import Ints, Music
from aurl_trainer.data.notes import Encoded
from aurl_trainer.data.shards import Split
from aurl_trainer.data.vocabulary import BAR, KIND, Vocabulary

_ENCODE: Final[dict[EncodingName, Callable[[Music, Vocabulary], Encoded]]] = {
    "remi": remi.encode,
    "events": events.encode,
    "raster": raster.encode,
}
_DECODE: Final[dict[EncodingName, Callable[[Ints, Vocabulary], Music]]] = {
    "remi": remi.decode,
    "events": events.decode,
    "raster": raster.decode,
}


def encode(music: Music, vocabulary: Vocabulary) -> Encoded:
    """Encode music; a piece without usable notes becomes an empty array."""
    return _ENCODE[vocabulary.config.encoding](music, vocabulary)


def decode(tokens: Ints, vocabulary: Vocabulary) -> Music:
    """Decode tokens (N,) up to Eos. Accepts any tokens and skips those that break the grammar.

    A step is a whole number of ticks, about 480 per quarter note.
    """
    return _DECODE[vocabulary.config.encoding](tokens, vocabulary)


def decode_pieces(split: Split, vocabulary: Vocabulary, most: int | None = None) -> Iterator[Music]:
    """Yield the pieces of a split, or at most `most` of them, spread evenly over it."""
    count = len(split.offsets) - 1
    for piece in np.unique(np.linspace(0, count - 1, min(count, most or count)).astype(np.int64)).tolist():
        begin, end = split.offsets[piece : piece + 2].tolist()
        split.count_reads(1, end - begin)
        yield decode(split.tokens[begin:end].astype(np.int64), vocabulary)


def count_notes(tokens: Ints, vocabulary: Vocabulary) -> int:
    """Return the number of notes that begin in tokens (N,)."""
    if vocabulary.config.encoding == "raster":
        return decode(tokens, vocabulary).notes
    starts = [KIND[name] for name in ("On" if vocabulary.count["On"] else "Pitch", "Drum")]
    return int(np.isin(vocabulary.kind_of[tokens], starts).sum())


def context_starts(tokens: Ints, vocabulary: Vocabulary) -> Ints:
    """Return the indices where a context may begin: each bar, or without bars each time with an event.

    `tokens` (N,) must start at the beginning of a piece.
    """
    if vocabulary.config.encoding == "remi":
        return np.flatnonzero(tokens == BAR)
    if vocabulary.config.encoding == "raster":
        return np.arange(1, len(tokens), vocabulary.config.tracks)
    shift = vocabulary.kind_of[tokens] == KIND["Shift"]
    return np.flatnonzero(shift & ~np.append(False, shift[:-1]))
