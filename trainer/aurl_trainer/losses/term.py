"""The value of a term of the loss, and the input of terms over predictions.

Shapes: B samples, T tokens, C model width, V vocabulary, N = B·T.
"""

# ruff: noqa: N802, N803, N806, N815 - names carry shapes
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from aurl_trainer.data.loader import IGNORED
from aurl_trainer.data.vocabulary import KINDS, Vocabulary


@dataclass(frozen=True)
class Measured:
    """The value of a term for a micro-batch, all scalars on the device."""

    objective: Tensor
    """The value to minimise, a sum over `count` items; for a term that is a mean, mean · valid targets, so
    that all terms have the scale of a sum over tokens."""
    total: Tensor
    """The value to report, as a sum over `count` items."""
    count: Tensor

    @classmethod
    def sum(cls, total: Tensor, count: Tensor) -> Measured:
        """Return a term that reports the value it minimises."""
        return cls(total, total, count)

    @classmethod
    def mean(cls, mean: Tensor, tokens: Tensor) -> Measured:
        """Return a term that is a mean, weighted as `tokens` tokens."""
        return cls(mean * tokens, mean * tokens, tokens)


TermFunction = Callable[[Any], Measured]
"""A term as a function of a pass, of the type that the term needs."""


class TokenTables:
    """Tables of the vocabulary on the training device."""

    def __init__(
        self, vocabulary: Vocabulary, groups: dict[str, tuple[str, ...]], device: torch.device
    ) -> None:
        """Put the kinds of each of `groups` in a group; all other kinds form one more, the last."""
        names = list(groups)
        group_of_kind = [
            next((i for i, name in enumerate(names) if kind in groups[name]), len(names)) for kind in KINDS
        ]
        of_token = [group_of_kind[kind] for kind in vocabulary.kind_of.tolist()]
        self.size = vocabulary.size
        self.one_hot_VG = F.one_hot(torch.tensor(of_token), len(names) + 1).float().to(device)
        self._places = {kind: (vocabulary.first[kind], vocabulary.count[kind]) for kind in KINDS}

    def tokens(self, kind: str) -> slice:
        """Return the ids of a kind; an empty slice if the vocabulary has none."""
        first, count = self._places[kind]
        return slice(first, first + count)


@dataclass
class TokenPass:
    """A forward pass over a micro-batch, and derived tensors, computed on demand."""

    tables: TokenTables
    inputs_BT: Tensor
    targets_BT: Tensor
    states_BTC: Tensor
    logits_BTV: Tensor
    """fp32"""
    again: Callable[[], Tensor]
    """Returns the logits of another pass over the same tokens, with other dropout."""

    @cached_property
    def valid_BT(self) -> Tensor:
        """1 where there is a target; fp32."""
        return (self.targets_BT != IGNORED).float()

    @cached_property
    def tokens(self) -> Tensor:
        """Number of valid targets."""
        return self.valid_BT.sum()

    @cached_property
    def safe_targets_BT(self) -> Tensor:
        """The targets, with an arbitrary token where there is none."""
        return self.targets_BT.clamp(min=0)

    @cached_property
    def log_probability_BTV(self) -> Tensor:
        """Logarithm of each token's probability."""
        return self.logits_BTV.log_softmax(-1)

    @cached_property
    def probability_BTV(self) -> Tensor:
        """Each token's probability."""
        return self.log_probability_BTV.exp()

    @cached_property
    def nll_BT(self) -> Tensor:
        """Nats of each target; 0 where there is none."""
        return nll(self.log_probability_BTV, self.safe_targets_BT, self.valid_BT)

    @cached_property
    def nll_G(self) -> tuple[Tensor, Tensor]:
        """Nats and number of the targets in each group of kinds, both (G,)."""
        group_BTG = self.tables.one_hot_VG[self.safe_targets_BT] * self.valid_BT[..., None]
        return torch.einsum("btg,bt->g", group_BTG, self.nll_BT), group_BTG.sum((0, 1))

    def mean(self, values_BT: Tensor) -> Tensor:
        """Return the mean over the valid targets."""
        return (values_BT * self.valid_BT).sum() / self.tokens.clamp(min=1)


def nll(log_probability_BTV: Tensor, targets_BT: Tensor, valid_BT: Tensor) -> Tensor:
    """Return the nats of each target, (B, T); 0 where `valid_BT` is 0."""
    return -log_probability_BTV.gather(-1, targets_BT[..., None]).squeeze(-1) * valid_BT
