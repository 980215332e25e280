"""Arguments of hooks: the public interface that docs/hooks.md describes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aurl_trainer.data.loader import IGNORED
from aurl_trainer.data.vocabulary import Vocabulary


@dataclass(frozen=True)
class LossInputs:
    """One micro-batch of this rank: B samples of T tokens, width C, vocabulary V.

    With precision bf16 or fp16, logits and hidden may have that dtype.
    """

    logits: Tensor
    """(B, T, V), with gradient: position t predicts token t + 1."""
    hidden: Tensor
    """(B, T, C), with gradient: the input of the output projection."""
    inputs: Tensor
    """(B, T) token ids."""
    targets: Tensor
    """(B, T) token ids; -100 where nothing is predicted."""
    step: int
    """The optimizer step, from 1."""
    vocabulary: Vocabulary

    @property
    def counted(self) -> Tensor:
        """(B, T), true where a target counts."""
        return self.targets != IGNORED


@dataclass(frozen=True)
class Evaluation:
    """Argument of a metric. The model is in evaluation mode, and no gradient is recorded."""

    model: nn.Module
    """`model(inputs)` returns logits; it has the averaged weights if `training.ema` is on."""
    vocabulary: Vocabulary
    step: int
    """Optimizer steps so far."""
    device: torch.device
    batches: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    """Yields this rank's share of the held-out split as (inputs, targets), each (B, T), on the device."""
    sum: Callable[[Tensor], Tensor]
    """Sums a tensor over ranks, in place; every rank must call it the same number of times."""
