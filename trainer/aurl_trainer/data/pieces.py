"""Bookkeeping for the pieces of a dataset in preparation: about a hundred bytes and its group per piece."""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Iterator
from typing import BinaryIO, Final

import numpy as np

from aurl_trainer.data.config import SplitConfig
from aurl_trainer.data.music import Ints
from aurl_trainer.data.shards import SPLITS, TOKEN_TYPE, SplitName

_DIGEST: Final = 32
_OPEN: Final = len(SPLITS)
"""The split of a piece whose source defines none."""


class Pieces:
    """Position in the scratch file, digest, file and given split of each piece."""

    def __init__(self) -> None:
        self.index = array("q")
        """(P,) number of each piece's file in the source."""
        self.notes = array("q")
        """(P,) notes of each piece."""
        self._ends = array("q")  # in tokens
        self._digests = bytearray()
        self._given = bytearray()  # number of the split, or _OPEN
        self._groups: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.index)

    def add(
        self, index: int, tokens: bytes, notes: int, split: SplitName | None, group: str | None = None
    ) -> None:
        """Add the next piece: the number of its file and its tokens as written to the scratch file.

        Pieces of a `group` are put into the same split.
        """
        if group is not None:
            self._groups[len(self)] = sys.intern(group)
        self.notes.append(notes)
        begin = self._ends[-1] if self._ends else 0
        self.index.append(index)
        self._ends.append(begin + len(tokens) // TOKEN_TYPE.itemsize)
        self._digests += hashlib.sha256(tokens).digest()
        self._given.append(_OPEN if split is None else SPLITS.index(split))

    def sizes(self) -> Ints:
        """Return (P,) the number of tokens of each piece."""
        ends = np.array(self._ends, np.int64)
        return np.asarray(ends - np.append(0, ends[:-1])[: len(ends)], np.int64)

    def copies(self) -> dict[int, int]:
        """Map each duplicate to the piece with the same tokens that is kept.

        The first is kept; with a split defined by the source, a held-out one before a training one, so that
        held-out sets stay complete and are never trained on.
        """
        digests = np.frombuffer(bytes(self._digests), f"V{_DIGEST}")
        _, group = np.unique(digests, return_inverse=True)
        given = np.frombuffer(bytes(self._given), np.uint8)
        held_out_first = np.array([2, 1, 0, 2])[given]  # train, validation, test, open
        order = np.lexsort((np.arange(len(group)), held_out_first, group))
        first = np.append(True, np.diff(group[order]) != 0)[: len(group)]
        original = order[first][np.cumsum(first) - 1]
        return {int(a): int(b) for a, b in zip(order, original, strict=True) if a != b}

    def split(self, config: SplitConfig, copies: dict[int, int]) -> dict[SplitName, Ints]:
        """Return the pieces of each split in the order of the source, without copies.

        Without a split defined by the source, the groups with the smallest hashes of name and seed are held
        out, as far as they fit; of pieces without a group, those with the smallest hashes of content and
        seed. So a piece stays in its split when files are renamed, and mostly when others come or go.
        """
        given = np.frombuffer(bytes(self._given), np.uint8).astype(np.int64)
        kept = np.setdiff1d(np.arange(len(self)), np.array(list(copies), np.int64))
        if len(kept) and given[kept[0]] != _OPEN:
            return {split: kept[given[kept] == number] for number, split in enumerate(SPLITS)}
        members: dict[bytes, list[int]] = {}
        for piece in kept.tolist():
            name = self._groups.get(piece)
            members.setdefault(self._digest(piece) if name is None else name.encode(), []).append(piece)
        salt = str(config.seed).encode()
        ranked = sorted(members, key=lambda group: hashlib.sha256(salt + group).digest())
        groups = [members[group] for group in ranked]
        most = len(kept) - 1  # training keeps at least one
        validation, rest = _held_out(groups, _share(config.validation_fraction, len(kept), most))
        test, rest = _held_out(rest, _share(config.test_fraction, len(kept), most - _count(validation)))
        parts: tuple[tuple[SplitName, list[list[int]]], ...] = (
            ("train", rest),
            ("validation", validation),
            ("test", test),
        )
        return {
            split: np.array(sorted(piece for group in groups for piece in group), np.int64)
            for split, groups in parts
        }

    def read(self, scratch: BinaryIO, rows: Ints) -> Iterator[bytes]:
        """Yield the tokens of the pieces `rows` from the scratch file."""
        for row in rows.tolist():
            begin = self._ends[row - 1] if row else 0
            scratch.seek(begin * TOKEN_TYPE.itemsize)
            yield scratch.read((self._ends[row] - begin) * TOKEN_TYPE.itemsize)

    def _digest(self, piece: int) -> bytes:
        return bytes(self._digests[piece * _DIGEST : (piece + 1) * _DIGEST])


def _share(fraction: float, pieces: int, most: int) -> int:
    return min(most, max(1, round(fraction * pieces))) if fraction else 0


def _held_out(groups: list[list[int]], pieces: int) -> tuple[list[list[int]], list[list[int]]]:
    """Return the first groups that together have at most `pieces`, and all others.

    If none fits, the smallest is held out, unless it is the only one.
    """
    chosen: list[list[int]] = []
    rest: list[list[int]] = []
    left = pieces
    for group in groups:
        fits = len(group) <= left
        (chosen if fits else rest).append(group)
        left -= len(group) if fits else 0
    if pieces and not chosen and len(rest) > 1:
        chosen = [rest.pop(min(range(len(rest)), key=lambda number: len(rest[number])))]
    return chosen, rest


def _count(groups: list[list[int]]) -> int:
    return sum(map(len, groups))
