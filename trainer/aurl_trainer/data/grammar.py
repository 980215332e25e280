"""Grammars: a state machine per encoding that knows which tokens may come next. No music theory.

Plain Python on a few integers per piece: a mask takes a few microseconds, far less than any model's step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

from aurl_trainer.data.config import EncodingName
from aurl_trainer.data.events_grammar import EventsGrammar
from aurl_trainer.data.music import Bools, Ints
from aurl_trainer.data.raster_grammar import RasterGrammar
from aurl_trainer.data.remi_grammar import RemiGrammar
from aurl_trainer.data.vocabulary import Vocabulary


class PieceGrammar(Protocol):
    """The state of one piece. After Eos, only Pad is allowed."""

    def allow(self, row: Bools) -> None:
        """Set True in `row` (size,), all False, for the tokens that may come next; at least one."""

    def push(self, token: int) -> None:
        """Advance by one token; a forbidden one is interpreted as far as possible."""


_GRAMMARS: Final[dict[EncodingName, type[RemiGrammar | EventsGrammar | RasterGrammar]]] = {
    "remi": RemiGrammar,
    "events": EventsGrammar,
    "raster": RasterGrammar,
}


def piece_grammar(vocabulary: Vocabulary) -> PieceGrammar:
    """Create the grammar of a piece, before its first token."""
    return _GRAMMARS[vocabulary.config.encoding](vocabulary)


class Grammar:
    """The states of a batch of pieces, starting before their first token."""

    def __init__(self, vocabulary: Vocabulary, batch: int) -> None:
        self.pieces = [piece_grammar(vocabulary) for _ in range(batch)]
        self._size = vocabulary.size

    def mask(self) -> Bools:
        """Return (batch, size), True for the tokens that may come next; at least one per row."""
        mask = np.zeros((len(self.pieces), self._size), np.bool_)
        for row, piece in zip(mask, self.pieces, strict=True):
            piece.allow(row)
        return mask

    def push(self, tokens: Ints | Sequence[int]) -> None:
        """Advance each piece by its token of (batch,)."""
        for piece, token in zip(self.pieces, np.asarray(tokens).tolist(), strict=True):
            piece.push(token)


def first_fault(tokens: Ints, vocabulary: Vocabulary) -> int:
    """Return the index of the first token of a piece (N,) that the grammar forbids, or -1."""
    piece = piece_grammar(vocabulary)
    row = np.zeros(vocabulary.size, np.bool_)
    for index, token in enumerate(tokens.tolist()):
        row[:] = False
        piece.allow(row)
        if not row[token]:
            return index
        piece.push(token)
    return -1
