"""Music to tokens and back, in the encoding that the vocabulary was made for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from aurl_trainer.data import events, raster, remi
from aurl_trainer.data.config import EncodingName
from aurl_trainer.data.music import Ints, Music
from aurl_trainer.data.notes import Encoded
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
    """Turn music into tokens; a piece of which no note is left becomes no tokens."""
    return _ENCODE[vocabulary.config.encoding](music, vocabulary)


def decode(tokens: Ints, vocabulary: Vocabulary) -> Music:
    """Turn tokens (N,) into music. Takes anything: what does not fit the grammar is passed over.

    Ticks are such that a step is a whole number of them, about 480 per quarter note. Stops at Eos.
    """
    return _DECODE[vocabulary.config.encoding](tokens, vocabulary)


def count_notes(tokens: Ints, vocabulary: Vocabulary) -> int:
    """How many notes begin in tokens (N,)."""
    if vocabulary.config.encoding == "raster":
        return decode(tokens, vocabulary).notes
    starts = [KIND[name] for name in ("On" if vocabulary.count["On"] else "Pitch", "Drum")]
    return int(np.isin(vocabulary.kind_of[tokens], starts).sum())


def resting_points(tokens: Ints, vocabulary: Vocabulary) -> Ints:
    """Indices where a context may begin: each bar; without bars each time that something happens.

    `tokens` (N,) must begin with the beginning of a piece.
    """
    if vocabulary.config.encoding == "remi":
        return np.flatnonzero(tokens == BAR)
    if vocabulary.config.encoding == "raster":
        return np.arange(1, len(tokens), vocabulary.config.tracks)
    shift = vocabulary.kind_of[tokens] == KIND["Shift"]
    return np.flatnonzero(shift & ~np.append(False, shift[:-1]))
