"""The prepared dataset as the training loop sees it: two splits and what their tokens mean."""

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
from aurl_trainer.data.tokenizer import count_notes
from aurl_trainer.data.vocabulary import Vocabulary

MOST_TOKENS: Final = 200_000
"""Of held-out tokens that notes are counted in when a job begins."""


@dataclass(frozen=True)
class TrainingData:
    """Everything about the data that the loop needs."""

    train: Loader
    validation: Loader
    vocabulary: Vocabulary
    fingerprint: str
    """Fingerprint of the dataset."""
    validation_tokens_per_note: float | None
    """Predicted tokens for each note of the first held-out pieces; None where there are no notes."""

    @classmethod
    def open(
        cls, path: Path, context_length: int, seed: int, config: DatasetConfig | None = None
    ) -> TrainingData:
        """Map a prepared dataset into memory. Raises DatasetError when it is not complete.

        `config` says how training samples overlap and are varied; by default neither.
        """
        overlap, augmentation = (config.window_overlap, config.augmentation) if config else (0.0, None)
        dataset = Dataset.open(path)
        return cls(
            train=Loader(path, "train", context_length, seed, overlap=overlap, augmentation=augmentation),
            validation=Loader(path, "validation", context_length, seed),
            vocabulary=dataset.vocabulary(),
            fingerprint=dataset.fingerprint,
            validation_tokens_per_note=_tokens_per_note(dataset),
        )

    def per_note(self, loss: float | None) -> dict[str, float]:
        """A held-out loss in nats per token as bits per note, which other encodings can be compared by."""
        if loss is None or self.validation_tokens_per_note is None:
            return {}
        return {"bits_per_note": loss * self.validation_tokens_per_note / math.log(2)}


def _tokens_per_note(dataset: Dataset) -> float | None:
    split, vocabulary = dataset.split("validation"), dataset.vocabulary()
    pieces = max(1, int(np.searchsorted(split.offsets, MOST_TOKENS, side="right")) - 1)
    starts = split.offsets[: pieces + 1].tolist()
    notes = sum(
        count_notes(split.tokens[begin:end].astype(np.int64), vocabulary)
        for begin, end in itertools.pairwise(starts)
    )
    return (starts[-1] - len(starts) + 1) / notes if notes else None
