"""Generate pieces token by token, with a key-value cache and the grammar of the encoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from aurl_trainer.data.grammar import Grammar
from aurl_trainer.data.music import Ints
from aurl_trainer.data.tokenizer import context_starts
from aurl_trainer.data.vocabulary import BOS, EOS, PAD, Vocabulary
from aurl_trainer.sampling.config import SamplingConfig
from aurl_trainer.sampling.draw import Floats, draw, uniforms

KEPT: Final = 0.5
"""Maximum share of a full context to keep when it slides."""


class LanguageModel(Protocol):
    """The interface of a model to generate with, such as `Transformer`."""

    training: bool

    def __call__(self, tokens: Tensor, /, *, cache: Any = None) -> Tensor:
        """Return logits_BTV for tokens_BT, which continue those in the cache."""

    def new_cache(
        self, batch_size: int, max_length: int, device: torch.device | str, dtype: torch.dtype
    ) -> Any:
        """Create an empty cache."""

    def train(self, mode: bool = True) -> Any:
        """Enable or disable dropout."""

    def parameters(self) -> Any:
        """Return the parameters, which define device and dtype."""


@runtime_checkable
class PieceWriter(Protocol):
    """A model whose logits depend on the number of the piece."""

    def begin(self, cache: Any, pieces: Ints, before: Ints) -> None:
        """Assign a new cache to `pieces` (B,), whose tokens `before` (B, N) it does not include."""


def generate(
    model: LanguageModel,
    vocabulary: Vocabulary,
    config: SamplingConfig,
    context_length: int,
    *,
    prompt: Ints | None = None,
) -> list[Ints]:
    """Generate `config.count` pieces and return the tokens of each, from Bos to Eos or `config.max_tokens`.

    A piece is a function of the model, the configuration and its own number; it depends on `batch_size` only
    by the rounding of logits. `prompt` (N,) is the beginning of all pieces; by default Bos alone. When
    `context_length` tokens are full, generation continues with a new context of the newest bars (or time
    steps, in encodings without bars) that fit into half of it; training windows may begin anywhere, too.
    """
    begin = np.array([BOS], np.int64) if prompt is None else np.asarray(prompt, np.int64)
    if not len(begin) or int(begin.max()) >= vocabulary.size:
        raise ValueError("the prompt must hold at least one token of the vocabulary")
    pieces: list[Ints] = []
    was_training = model.training
    model.train(False)
    try:
        # Not inference_mode: training reuses tables that the model extends here.
        with torch.no_grad():
            for first in range(0, config.count, config.batch_size):
                numbers = range(first, min(first + config.batch_size, config.count))
                pieces += _Run(model, vocabulary, config, context_length, begin, numbers).write()
    finally:
        model.train(was_training)
    return pieces


@dataclass(eq=False)  # arrays cannot be compared by ==
class _Group:
    """Pieces whose contexts begin at the same position, with their shared cache."""

    rows: Ints
    begin: int
    cache: Any = None


class _Run:
    """A batch of pieces."""

    def __init__(
        self,
        model: LanguageModel,
        vocabulary: Vocabulary,
        config: SamplingConfig,
        context_length: int,
        begin: Ints,
        numbers: range,
    ) -> None:
        self.model, self.config, self.context, self.vocabulary = model, config, context_length, vocabulary
        self.numbers: Ints = np.array(numbers, np.int64)
        parameter = next(iter(model.parameters()))
        self.device, self.dtype = parameter.device, parameter.dtype
        length = max(config.max_tokens, len(begin))
        self.tokens: Ints = np.full((len(numbers), length), PAD, np.int64)
        self.tokens[:, : len(begin)] = begin
        self.filled = len(begin)
        self.uniform = np.stack([uniforms([config.seed, number], length) for number in numbers])
        self.grammar = Grammar(vocabulary, len(numbers))
        for token in begin.tolist():
            self.grammar.push(np.full(len(numbers), token))
        self.plain = np.ones((len(numbers), vocabulary.size), np.bool_)
        self.plain[:, [PAD, BOS]] = False
        self.ended = np.zeros(len(numbers), np.bool_)
        self.groups = [_Group(np.arange(len(numbers)), 0)]
        if self.filled > context_length:
            self.groups = self._slid(self.groups[0].rows)

    def write(self) -> list[Ints]:
        while self.filled < self.tokens.shape[1] and not self.ended.all():
            logits = self._logits()
            allowed = self.grammar.mask() if self.config.grammar else self.plain
            token = draw(logits, allowed, self.config, self.uniform[:, self.filled])
            token[self.ended] = PAD
            self.tokens[:, self.filled] = token
            self.grammar.push(token)
            self.ended |= token == EOS
            self.filled += 1
        return [_without_padding(row[: self.filled]) for row in self.tokens]

    def _logits(self) -> Floats:
        """Return logits (B, V) for the next token, as float64 on the host; zeros for finished pieces."""
        logits = np.zeros((len(self.tokens), self.vocabulary.size))
        full = [group for group in self.groups if self.filled - group.begin > self.context]
        self.groups = [group for group in self.groups if group not in full]
        for group in full:
            self.groups += self._slid(group.rows)
        for group in self.groups:
            begin = self.filled - 1
            if group.cache is None:
                begin = group.begin
                room = min(self.context, self.tokens.shape[1] - begin)
                group.cache = self.model.new_cache(len(group.rows), room, self.device, self.dtype)
                if isinstance(self.model, PieceWriter):
                    before = self.tokens[group.rows, :begin]
                    self.model.begin(group.cache, self.numbers[group.rows], before)
            new = torch.from_numpy(self.tokens[group.rows, begin : self.filled]).to(self.device)
            logits[group.rows] = self.model(new, cache=group.cache)[:, -1].cpu().double().numpy()
        return logits

    def _slid(self, rows: Ints) -> list[_Group]:
        """Return new contexts for these pieces, beginning with a bar, grouped by where they begin."""
        begins: dict[int, list[int]] = {}
        earliest = self.filled - max(1, int(self.context * KEPT))
        for row in rows[~self.ended[rows]].tolist():
            points = context_starts(self.tokens[row, : self.filled], self.vocabulary)
            later = points[points >= earliest]
            begins.setdefault(int(later[0]) if len(later) else earliest, []).append(row)
        return [_Group(np.array(together), begin) for begin, together in begins.items()]


def _without_padding(row: Ints) -> Ints:
    end = np.flatnonzero(row == EOS)
    return row[: end[0] + 1] if len(end) else row
