"""The prepared dataset as the training loop sees it: two splits and their vocabulary."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from aurl_trainer.data.config import DatasetConfig
from aurl_trainer.data.loader import Loader
from aurl_trainer.data.shards import Dataset
from aurl_trainer.data.tokenizer import decode
from aurl_trainer.data.vocabulary import Vocabulary
from aurl_trainer.evaluation.likelihood import seconds_of

MOST_TOKENS: Final = 200_000
"""Held-out tokens in which notes and seconds are counted when a job starts."""


@dataclass(frozen=True)
class HeldOut:
    """The amount of music in the predicted tokens of the first held-out pieces."""

    tokens: int
    notes: int
    seconds: float

    @classmethod
    def measure(cls, dataset: Dataset) -> HeldOut:
        """Decode about MOST_TOKENS tokens of the validation split."""
        split, vocabulary = dataset.split("validation"), dataset.vocabulary()
        pieces = max(1, int(np.searchsorted(split.offsets, MOST_TOKENS, side="right")) - 1)
        starts = split.offsets[: pieces + 1].tolist()
        music = [
            decode(split.tokens[begin:end].astype(np.int64), vocabulary)
            for begin, end in itertools.pairwise(starts)
        ]
        tokens = starts[-1] - len(starts) + 1  # the first of each piece is not predicted
        return cls(tokens, sum(piece.notes for piece in music), sum(map(seconds_of, music)))

    def bits(self, loss: float | None) -> dict[str, float]:
        """Convert a loss in nats per token to bits per note and per second, to compare encodings."""
        if loss is None or not self.notes:
            return {}
        bits = loss * self.tokens / math.log(2)
        found = {"bits_per_note": bits / self.notes}
        return found | {"bits_per_second": bits / self.seconds} if self.seconds > 0 else found


@dataclass(frozen=True)
class TrainingData:
    """All that the loop needs of the data."""

    train: Loader
    validation: Loader
    vocabulary: Vocabulary
    dataset: Dataset
    """The source of both splits."""
    held_out: HeldOut

    @classmethod
    def open(
        cls, path: Path, context_length: int, seed: int, config: DatasetConfig | None = None
    ) -> TrainingData:
        """Map a prepared dataset into memory. Raises DatasetError if it is incomplete.

        `config` gives the overlap and augmentation of training samples; without it there is neither.
        """
        overlap, augmentation = (config.window_overlap, config.augmentation) if config else (0.0, None)
        dataset = Dataset.open(path)
        return cls(
            train=Loader(path, "train", context_length, seed, overlap=overlap, augmentation=augmentation),
            validation=Loader(path, "validation", context_length, seed),
            vocabulary=dataset.vocabulary(),
            dataset=dataset,
            held_out=HeldOut.measure(dataset),
        )
