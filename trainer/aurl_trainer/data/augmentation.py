"""Training samples varied on the fly: transposed, faster or slower, louder or softer.

Only the numbers of tokens change, never their kinds, so a varied sample is as well-formed as the sample. How
a sample is varied is a function of the numbers that are drawn for it: the loader draws them from the seed and
the sample's place in the stream, so that a resumed run and any number of ranks vary alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aurl_trainer.data.config import AugmentationConfig
from aurl_trainer.data.music import Ints
from aurl_trainer.data.vocabulary import KINDS, PAD, Vocabulary


class Augmentation:
    """What a configuration does to the tokens of one vocabulary."""

    def __init__(self, config: AugmentationConfig, vocabulary: Vocabulary) -> None:
        shifts = (
            (("Pitch", "On", "Off"), config.transpose_semitones),
            (("Tempo",), config.stretch_levels(vocabulary.config)),
            (("Velocity",), config.velocity_levels(vocabulary.config)),
        )
        self._shifts = [(_numbers(vocabulary, kinds), most) for kinds, most in shifts if most]

    @property
    def draws(self) -> int:
        """How many numbers `apply` needs for each sample."""
        return len(self._shifts)

    def apply(self, inputs: Ints, targets: Ints, drawn: NDArray[np.float64]) -> None:
        """Change samples (B, L) in place; `drawn` (B, draws) in [0, 1) says which way and how far.

        Every number within the configured reach is equally likely, of those that keep the whole sample in
        the range of the vocabulary. Targets below 0 stay.
        """
        last = np.where(targets[:, -1:] < 0, PAD, targets[:, -1:])
        tokens = np.concatenate([inputs, last], axis=1)
        for (numbers, most), uniform in zip(self._shifts, drawn.T, strict=True):
            number = numbers.take(tokens)
            affected = number >= 0
            highest = number.max(axis=1).astype(np.int64)
            lowest = np.where(affected, number, np.iinfo(number.dtype).max).min(axis=1).astype(np.int64)
            down = np.minimum(most, np.where(highest < 0, 0, lowest))
            up = np.minimum(most, np.where(highest < 0, 0, int(numbers.max()) - highest))
            shift = np.floor(uniform * (down + up + 1)).astype(np.int64) - down
            tokens += affected * shift[:, None]
        inputs[:] = tokens[:, :-1]
        np.copyto(targets, tokens[:, 1:], where=targets >= 0)


def _numbers(vocabulary: Vocabulary, kinds: tuple[str, ...]) -> NDArray[np.int16]:
    """(size,) the number of each token of these kinds within its kind, -1 for all others."""
    of_kind = np.isin(vocabulary.kind_of, [KINDS.index(kind) for kind in kinds])
    return np.where(of_kind, vocabulary.value_of, -1).astype(np.int16)
