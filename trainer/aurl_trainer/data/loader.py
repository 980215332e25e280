"""Batches from a split, in an order that is a function of (seed, dataset, token counter) and nothing else.

Training. The stream of a split is all pieces end to end, each `Bos … Eos`, as a circle of N tokens. Each
epoch rotates the circle by its own offset, cuts it into blocks of `context_length` C and visits them in its
own order. Blocks start every C · (1 - overlap) tokens; without overlap an epoch has ⌈N / C⌉ · C slots. The
token counter counts slots since the start of training. A sample of length L, a divisor of C, is L slots of
one block: other batch sizes, world sizes or lengths continue the same order. Without overlap every token is
an input once per epoch and a target once (except Bos, which cannot be predicted); the slots missing from the
last block are padding. Windows cross piece boundaries; `Bos` marks them.

Validation. Windows start with each piece and never cross into the next, so no prediction sees another piece;
every token but Bos is a target exactly once. The end of a piece is padded. With a stride below the length
windows overlap, and tokens that an earlier window predicted serve as context only.

Targets are the inputs shifted by one; IGNORED where there is nothing to predict.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aurl_trainer.data.augmentation import Augmentation
from aurl_trainer.data.config import AugmentationConfig
from aurl_trainer.data.music import Ints
from aurl_trainer.data.shards import Dataset, SplitName
from aurl_trainer.data.vocabulary import BOS, PAD

IGNORED: Final = -100
Batch = tuple[Ints, Ints]


class Loader:
    """Samples of one split of a prepared dataset; thread-safe.

    Raises DatasetError if the dataset is incomplete.
    """

    def __init__(
        self,
        dataset_path: Path,
        split: SplitName,
        context_length: int,
        seed: int,
        *,
        overlap: float = 0.0,
        augmentation: AugmentationConfig | None = None,
    ) -> None:
        dataset = Dataset.open(dataset_path)
        self._split = dataset.split(split)
        self.fingerprint = dataset.fingerprint
        self.context_length, self.seed = context_length, seed
        self._stream, self._offsets = self._split.tokens, self._split.offsets
        self._stride = max(1, round(context_length * (1 - overlap)))
        further = -(-max(0, len(self._stream) - context_length) // self._stride)
        self.blocks = 1 + further if len(self._stream) else 0
        self._augmentation: Augmentation | None = None
        if augmentation is not None and augmentation != AugmentationConfig():
            self._augmentation = Augmentation(augmentation, dataset.vocabulary())
        self._orders: dict[int, tuple[int, Ints]] = {}
        self._lock = threading.Lock()

    @property
    def tokens(self) -> int:
        """Number of tokens in the split."""
        return len(self._stream)

    @property
    def slots_per_epoch(self) -> int:
        """Advance of the token counter in one epoch."""
        return self.blocks * self.context_length

    def advance(self, token_counter: int, sequence_length: int, batch_size: int) -> int:
        """Return the token counter after a global batch of `batch_size` samples."""
        return _aligned(token_counter, sequence_length) + batch_size * sequence_length

    def batch(
        self, token_counter: int, sequence_length: int, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> Batch:
        """Return this rank's share of the global batch at `token_counter`: inputs_BT and targets_BT, int64.

        `batch_size` counts the samples of all ranks; rank r takes samples ⌊B·r/W⌋ to ⌊B·(r+1)/W⌋. A counter
        inside a sample, left by another sequence length, is rounded up to the next sample.
        """
        L = sequence_length  # noqa: N806
        if not self.tokens:
            raise ValueError("the split holds no tokens")
        if L < 1 or self.context_length % L:
            raise ValueError(f"sequence length {L} does not divide the context length {self.context_length}")
        first, last = batch_size * rank // world_size, batch_size * (rank + 1) // world_size
        inputs = np.empty((last - first, L), np.int64)
        targets = np.empty((last - first, L), np.int64)
        start = _aligned(token_counter, L)
        for row, slot in enumerate(range(start + first * L, start + last * L, L)):
            epoch, within = divmod(slot, self.slots_per_epoch)
            block, inner = divmod(within, self.context_length)
            turn, order = self._order(epoch)
            self._fill(inputs[row], targets[row], order.item(block) * self._stride + inner, turn)
        self._split.count_reads(last - first, L)
        if self._augmentation is not None:
            places = np.arange(start + first * L, start + last * L, L, dtype=np.uint64)
            self._augmentation.apply(inputs, targets, self._draws(places, self._augmentation.draws))
        targets[targets == BOS] = IGNORED
        return inputs, targets

    def _fill(self, inputs: Ints, targets: Ints, begin: int, turn: int) -> None:
        """Copy one sample (L,) that starts at `begin` of the rotated circle."""
        length, tokens = len(inputs), self.tokens
        at = (begin + turn) % tokens
        if begin + length <= tokens and at + length < tokens:
            inputs[:] = self._stream[at : at + length]
            targets[:] = self._stream[at + 1 : at + length + 1]
            return
        available = max(0, min(length, tokens - begin))  # beyond that the epoch has no more tokens
        index = (at + np.arange(available + 1)) % tokens
        inputs[:available], inputs[available:] = self._stream[index[:-1]], PAD
        targets[:available], targets[available:] = self._stream[index[1:]], IGNORED

    def _draws(self, places: NDArray[np.uint64], count: int) -> NDArray[np.float64]:
        """Return `count` numbers in [0, 1) for the sample at each place of the token counter."""
        index = (places[:, None] * np.uint64(count) + np.arange(count, dtype=np.uint64)).astype(np.uint64)
        bits = _scramble(index, self._key(-2)) >> np.uint64(11)
        return np.asarray(bits * 2.0**-53, np.float64)

    def validation_batches(
        self,
        sequence_length: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        *,
        stride: int | None = None,
    ) -> Iterator[Batch]:
        """Iterate over the split once, in a fixed shuffled order: the first batches represent all of it.

        `batch_size` counts the samples of all ranks, which are the same at any world size. Every rank gets
        the same number of batches, each of ⌈batch_size / world_size⌉ rows; missing rows, at the end or on
        the last ranks, are padding with IGNORED targets. `stride` is the distance in tokens between the
        windows of a piece; by default the sequence length.
        """
        starts, known, lengths = self._windows(sequence_length, stride or sequence_length)
        order = np.argsort(_scramble(np.arange(len(starts), dtype=np.uint64), self._key(-1)), kind="stable")
        rows = -(-batch_size // world_size)
        reach = np.arange(sequence_length + 1)
        for begin in range(0, len(order), batch_size):
            mine = order[begin : begin + batch_size][rank * rows : (rank + 1) * rows]
            inputs = np.full((rows, sequence_length), PAD, np.int64)
            targets = np.full((rows, sequence_length), IGNORED, np.int64)
            index = np.minimum(starts[mine, None] + reach, self.tokens - 1)
            window = self._stream[index].astype(np.int64)
            valid = reach[None, :-1] < lengths[mine, None]
            predicted = valid & (reach[None, :-1] >= known[mine, None])
            inputs[: len(mine)] = np.where(valid, window[:, :-1], PAD)
            targets[: len(mine)] = np.where(predicted, window[:, 1:], IGNORED)
            self._split.count_reads(len(mine), sequence_length)
            yield inputs, targets

    def _windows(self, length: int, stride: int) -> tuple[Ints, Ints, Ints]:
        """Return each window's start, its number of targets already predicted, and that of all targets."""
        if not 0 < stride <= length:
            raise ValueError(f"the stride {stride} must be from 1 to the sequence length {length}")
        targets = np.diff(self._offsets) - 1
        windows = 1 + -(-np.maximum(targets - length, 0) // stride)
        piece = np.repeat(np.arange(len(targets)), windows)
        number = np.arange(len(piece)) - np.repeat(np.cumsum(windows) - windows, windows)
        known = np.where(number > 0, length - stride, 0)
        rest = targets[piece] - number * stride
        return self._offsets[piece] + number * stride, known, np.minimum(rest, length)

    def _order(self, epoch: int) -> tuple[int, Ints]:
        """Return the rotation of an epoch in tokens and the order of its blocks."""
        known = self._orders.get(epoch)
        if known is not None:
            return known
        with self._lock:
            if epoch not in self._orders:
                key = self._key(epoch)
                turn = int(_scramble(np.zeros(1, np.uint64), key ^ 0x7475726E)[0] % np.uint64(self.tokens))
                scrambled = _scramble(np.arange(self.blocks, dtype=np.uint64), key)
                order = np.argsort(scrambled, kind="stable")
                # A batch may span two epochs; older ones are not needed again.
                self._orders = {e: o for e, o in self._orders.items() if e >= epoch - 1} | {
                    epoch: (turn, order)
                }
            return self._orders[epoch]

    def _key(self, epoch: int) -> int:
        text = f"{self.seed} {self.fingerprint} {epoch}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")


def _aligned(counter: int, length: int) -> int:
    return -(-counter // length) * length


def _scramble(index: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each index: the output function of SplitMix64 (Steele, Lea and Flood 2014).

    Not a NumPy generator, because its streams may change from version to version.
    """
    z = (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
