"""A 5-gram of chorales that knows the voice and the step within the quarter of each token.

In a raster the four preceding tokens are the other voices and the same voice one step earlier. A plain 5-gram
must infer from them which is which, and whether notes may change now: its loss is about twice as high.
Interpolated Witten-Bell smoothing, as in `aurl_trainer.evaluation.ngram`, with contexts from short to long:
nothing; voice and step of the quarter; the same voice one step earlier; one and two voices above it now; and
those two one step earlier.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator
from pathlib import Path

STEPS_PER_QUARTER = 4
BEFORE = None
"""The pitch of every voice before a piece starts."""

Piece = list[list[int]]


def informed_five_gram_nats(data: Path, vocabulary_size: int) -> float:
    """Return nats per note of the test pieces.

    The JSON file holds {train, test}, lists of pieces; a piece is a list of steps of pitches, -1 for silence.
    """
    pieces = json.loads(data.read_text())
    seen: dict[Hashable, Counter[int]] = defaultdict(Counter)
    for pitch, contexts in _notes(pieces["train"]):
        for context in contexts:
            seen[context][pitch] += 1
    totals = {context: (counts.total(), len(counts)) for context, counts in seen.items()}
    nats, count = 0.0, 0
    for pitch, contexts in _notes(pieces["test"]):
        probability = 1.0 / vocabulary_size
        for context in contexts:
            if context in totals:
                total, different = totals[context]
                probability = (seen[context][pitch] + different * probability) / (total + different)
        nats -= math.log(probability)
        count += 1
    return nats / count


def _notes(pieces: list[Piece]) -> Iterator[tuple[int, list[Hashable]]]:
    """Yield each token with its contexts, the shortest first."""
    for piece in pieces:
        before: list[int | None] = [BEFORE] * len(piece[0])
        for time, step in enumerate(piece):
            for voice, pitch in enumerate(step):
                place = (voice, time % STEPS_PER_QUARTER)
                above, above_before = tuple(step[:voice]), tuple(before[:voice])
                own = (*place, before[voice])
                yield (
                    pitch,
                    [
                        (),
                        place,
                        own,
                        (*own, above[-1:]),
                        (*own, above[-2:], above_before[-2:]),
                    ],
                )
            before = [*step]
