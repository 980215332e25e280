"""The likelihood of held-out music under a model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from aurl_trainer.data.loader import IGNORED, Loader
from aurl_trainer.data.music import DEFAULT_TEMPO, Music
from aurl_trainer.data.vocabulary import KINDS, Vocabulary


@dataclass(frozen=True)
class Likelihood:
    """Sums over a held-out split, from which values that are comparable across vocabularies are derived."""

    nats: float
    tokens: int
    """Predicted tokens: all except Bos."""
    nats_of_kind: dict[str, float]
    tokens_of_kind: dict[str, int]

    @property
    def per_token(self) -> float:
        """Nats per token."""
        return self.nats / max(1, self.tokens)

    def report(self, notes: int, seconds: float) -> dict[str, Any]:
        """Return the figures by their public names; `notes` and `seconds` are those of the music."""
        bits = self.nats / math.log(2)
        return {
            "nllPerToken": self.per_token,
            "tokens": self.tokens,
            "bitsPerNote": bits / max(1, notes),
            "bitsPerSecond": bits / seconds if seconds > 0 else None,
            "notes": notes,
            "seconds": seconds,
            "nllPerTokenByKind": {
                kind: nats / self.tokens_of_kind[kind] for kind, nats in self.nats_of_kind.items()
            },
        }


@torch.no_grad()
def likelihood(
    model: nn.Module,
    loader: Loader,
    vocabulary: Vocabulary,
    context_length: int,
    *,
    batch_size: int = 8,
    stride: int | None = None,
) -> Likelihood:
    """Predict every token of a split from up to `context_length` earlier ones of its piece.

    Long pieces are read in windows that start every `stride` tokens (by default the context length).
    """
    device = next(model.parameters()).device
    nats = torch.zeros(len(KINDS), dtype=torch.float64)
    counts = torch.zeros(len(KINDS), dtype=torch.int64)
    kind_of = torch.from_numpy(vocabulary.kind_of)
    was_training = model.training
    model.eval()
    try:
        for inputs, targets in loader.validation_batches(context_length, batch_size, stride=stride):
            length = max(8, int((targets != IGNORED).any(axis=0).nonzero()[0].max(initial=0)) + 1)
            logits: Tensor = model(torch.from_numpy(inputs[:, :length]).to(device))
            wanted = torch.from_numpy(np.ascontiguousarray(targets[:, :length]))
            losses = F.cross_entropy(
                logits.flatten(0, 1).float(),
                wanted.flatten().to(device),
                ignore_index=IGNORED,
                reduction="none",
            )
            valid = wanted.flatten() != IGNORED
            kinds = kind_of[wanted.flatten()[valid]]
            nats.index_add_(0, kinds, losses.cpu().double()[valid])
            counts.index_add_(0, kinds, torch.ones_like(kinds))
    finally:
        model.train(was_training)
    present = [index for index in range(len(KINDS)) if counts[index]]
    return Likelihood(
        nats=float(nats.sum()),
        tokens=int(counts.sum()),
        nats_of_kind={KINDS[index]: float(nats[index]) for index in present},
        tokens_of_kind={KINDS[index]: int(counts[index]) for index in present},
    )


def seconds_of(music: Music) -> float:
    """Return the duration of a piece in seconds, to the end of its last note."""
    if not music.notes:
        return 0.0
    last = int(music.end.max())
    times = np.concatenate([[0], np.minimum(music.tempo_time, last), [last]])
    tempi = np.concatenate([[DEFAULT_TEMPO], music.tempo])
    return float((np.diff(times) * tempi).sum() / music.ticks_per_quarter / 1e6)
