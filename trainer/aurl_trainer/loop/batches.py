"""Micro-batches on the device, from the dataset's loader; a step has the same samples in any layout."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from aurl_trainer.config import TrainingConfig
from aurl_trainer.data.curriculum import Curriculum
from aurl_trainer.data.loader import IGNORED, Loader
from aurl_trainer.data.vocabulary import PAD
from aurl_trainer.distributed.runtime import Layout
from aurl_trainer.objective.objective import MicroBatch


class Batches:
    """This rank's share of each global batch, cut into micro-batches: the same number on every rank.

    With FSDP every pass is a collective, so a rank with a smaller or empty share adds padding, whose targets
    do not count.

    On a CPU a batch is read when needed: it takes a few dozen microseconds, less than a thread would cost.
    For an accelerator, a thread reads the next one into pinned memory while the device computes.
    """

    def __init__(
        self,
        loader: Loader,
        batch_size: int,
        curriculum: Curriculum,
        layout: Layout,
        device: torch.device,
    ) -> None:
        self.loader, self.batch_size, self.curriculum = loader, batch_size, curriculum
        self.layout, self.device = layout, device
        self._micro_batch_size = 1
        self._thread = ThreadPoolExecutor(1, "batches") if device.type == "cuda" else None
        self._ahead: tuple[tuple[int, int], Future[tuple[Tensor, Tensor, int]]] | None = None

    def samples(self, length: int) -> int:
        """Return the size of the global batch in samples of `length` tokens."""
        return self.curriculum.samples(self.batch_size, length)

    def cut_into(self, samples: int) -> None:
        """Use micro-batches of at most `samples` samples of contextLength tokens from now on."""
        self._micro_batch_size = samples

    def micro_batch_size(self, length: int) -> int:
        """Return the largest number of samples of `length` tokens in a pass, which is constant in tokens."""
        return self.curriculum.samples(self._micro_batch_size, length)

    def micro_batch_sizes(self, length: int) -> list[int]:
        """Return all sizes of micro-batches of `length` tokens on any rank, largest first."""
        samples, ranks, most = self.samples(length), self.layout.world_size, self.micro_batch_size(length)
        shares = {samples // ranks, -(-samples // ranks)}
        return sorted(
            {min(most, share - at) for share in shares for at in range(0, share, most)}, reverse=True
        )

    def shapes(self, *, largest: bool) -> list[tuple[int, int]]:
        """Return (samples, tokens per sample) of all micro-batches, or of the largest of each length.

        The longest samples come first: they need the most memory.
        """
        lengths = reversed(self.curriculum.lengths)
        sizes = {length: self.micro_batch_sizes(length)[: 1 if largest else None] for length in lengths}
        return [(size, length) for length, found in sizes.items() for size in found]

    def _largest_share(self, length: int) -> int:
        """Return the number of samples of a step on the rank that has the most."""
        return -(-self.samples(length) // self.layout.world_size)

    def after(self, token_counter: int, step: int) -> int:
        """Return the token counter after `step`, which starts at `token_counter`."""
        length = self.curriculum.length(step)
        return self.loader.advance(token_counter, length, self.samples(length))

    def next(self, token_counter: int, step: int) -> tuple[list[MicroBatch], int]:
        """Return `step`'s micro-batches, from `token_counter` on, and the number of targets that count."""
        length = self.curriculum.length(step)
        if self._thread is None:
            inputs, targets, valid = self._read(token_counter, length)
        else:
            ahead, self._ahead = self._ahead, None
            hit = ahead is not None and ahead[0] == (token_counter, length)
            inputs, targets, valid = ahead[1].result() if ahead and hit else self._read(token_counter, length)
            following = self.after(token_counter, step), self.curriculum.length(step + 1)
            self._ahead = (following, self._thread.submit(self._read, *following))
        inputs = inputs.to(self.device, non_blocking=True)
        targets = targets.to(self.device, non_blocking=True)
        size = self.micro_batch_size(length)
        passes = -(-self._largest_share(length) // size)
        if len(inputs) and passes == 1:
            return [(inputs, targets)], valid
        micro_batches = _split(inputs, targets, size)
        if len(micro_batches) < passes:
            # In a shape that is used anyway.
            shape = (self.micro_batch_sizes(length)[-1], length)
            tokens, nothing = (torch.full(shape, value, device=self.device) for value in (PAD, IGNORED))
            micro_batches += [(tokens, nothing)] * (passes - len(micro_batches))
        return micro_batches, valid

    def _read(self, token_counter: int, length: int) -> tuple[Tensor, Tensor, int]:
        inputs, targets = self.loader.batch(
            token_counter, length, self.samples(length), self.layout.rank, self.layout.world_size
        )
        valid = int(np.count_nonzero(targets != IGNORED))
        pair = torch.from_numpy(inputs), torch.from_numpy(targets)
        return (pair[0].pin_memory(), pair[1].pin_memory(), valid) if self._thread else (*pair, valid)


def evaluation_batches(
    loader: Loader, config: TrainingConfig, layout: Layout, device: torch.device, micro_batch_size: int
) -> Iterator[MicroBatch]:
    """Yield this rank's share of the evaluation in micro-batches; no token of the split is repeated."""
    batches = loader.validation_batches(
        config.context_length, config.batch.global_batch_size, layout.rank, layout.world_size
    )
    for inputs, targets in islice(batches, config.evaluation.batches):
        pair = torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device)
        yield from _split(*pair, micro_batch_size)


def _split(inputs: Tensor, targets: Tensor, size: int) -> list[MicroBatch]:
    return [(inputs[i : i + size], targets[i : i + size]) for i in range(0, len(inputs), size)]
