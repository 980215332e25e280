"""Which token may come next: the syntax of each encoding as a state machine. No music theory.

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
    """The state of one piece. A piece that has ended takes and allows Pad alone."""

    def allow(self, row: Bools) -> None:
        """Set those of `row` (size,), all False, that may come next; at least one."""

    def push(self, token: int) -> None:
        """Take a token; one that may not come is taken as well as it can be."""


_GRAMMARS: Final[dict[EncodingName, type[RemiGrammar | EventsGrammar | RasterGrammar]]] = {
    "remi": RemiGrammar,
    "events": EventsGrammar,
    "raster": RasterGrammar,
}


def piece_grammar(vocabulary: Vocabulary) -> PieceGrammar:
    """Make the grammar of a piece before its first token."""
    return _GRAMMARS[vocabulary.config.encoding](vocabulary)


class Grammar:
    """The states of several pieces side by side, all before their first token."""

    def __init__(self, vocabulary: Vocabulary, batch: int) -> None:
        self.pieces = [piece_grammar(vocabulary) for _ in range(batch)]
        self._size = vocabulary.size

    def mask(self) -> Bools:
        """(batch, size) True for tokens that may come next; at least one in each row."""
        mask = np.zeros((len(self.pieces), self._size), np.bool_)
        for row, piece in zip(mask, self.pieces, strict=True):
            piece.allow(row)
        return mask

    def push(self, tokens: Ints | Sequence[int]) -> None:
        """Take one token (batch,) per piece."""
        for piece, token in zip(self.pieces, np.asarray(tokens).tolist(), strict=True):
            piece.push(token)


def first_fault(tokens: Ints, vocabulary: Vocabulary) -> int:
    """The index of the first token of a piece (N,) that the grammar forbids; -1 when there is none."""
    piece = piece_grammar(vocabulary)
    row = np.zeros(vocabulary.size, np.bool_)
    for index, token in enumerate(tokens.tolist()):
        row[:] = False
        piece.allow(row)
        if not row[token]:
            return index
        piece.push(token)
    return -1
