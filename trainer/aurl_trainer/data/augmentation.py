"""On-the-fly variation of training samples: transposed, faster or slower, louder or softer.

Tokens keep their kind and change only their number, so a varied sample is as well-formed as the original. The
variation is a function of random numbers that the loader derives from the seed and the sample's place in the
stream: resumed runs and any number of ranks vary the samples alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aurl_trainer.data.config import AugmentationConfig
from aurl_trainer.data.music import Ints
from aurl_trainer.data.vocabulary import KINDS, PAD, Vocabulary


class Augmentation:
    """The variations of one configuration, for the tokens of one vocabulary."""

    def __init__(self, config: AugmentationConfig, vocabulary: Vocabulary) -> None:
        shifts = (
            (("Pitch", "On", "Off"), config.transpose_semitones),
            (("Tempo",), config.stretch_levels(vocabulary.config)),
            (("Velocity",), config.velocity_levels(vocabulary.config)),
        )
        self._shifts = [(_numbers(vocabulary, kinds), most) for kinds, most in shifts if most]

    @property
    def draws(self) -> int:
        """Random numbers that `apply` needs per sample."""
        return len(self._shifts)

    def apply(self, inputs: Ints, targets: Ints, drawn: NDArray[np.float64]) -> None:
        """Change samples (B, L) in place; `drawn` (B, draws) in [0, 1) selects the shifts.

        All shifts that are within the configured bounds and keep the whole sample in the range of the
        vocabulary are equally likely. Targets below 0 are left as they are.
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
    """Return (size,) the number of each token of these kinds within its kind, -1 for all others."""
    of_kind = np.isin(vocabulary.kind_of, [KINDS.index(kind) for kind in kinds])
    return np.where(of_kind, vocabulary.value_of, -1).astype(np.int16)
