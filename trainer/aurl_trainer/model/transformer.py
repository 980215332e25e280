"""The decoder-only transformer of mode `transformer`, with a key-value cache for sampling.

Shapes: B samples, T new tokens, S tokens seen so far (S ≥ T), H heads, D width per head, C = H·D width, V
vocabulary.
"""

# ruff: noqa: N803, N806 - names carry shapes
from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from aurl_trainer.data.loader import IGNORED
from aurl_trainer.model.attention import attend, attend_both_ways, attend_cached
from aurl_trainer.model.config import ModelConfig


class KVCache:
    """Keys and values of all layers for the tokens seen so far; `length` of `max_length` are filled."""

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        max_length: int,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        head_dim = config.d_model // config.heads
        shape = (config.layers, 2, batch_size, config.heads, max_length, head_dim)
        self.kv = torch.zeros(shape, device=device, dtype=dtype)
        self.length = 0
        self.max_length = max_length

    def extend(self, layer: int, k_BHTD: Tensor, v_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        """Append the keys and values of one layer and return all so far, each BHSD; keeps `length`."""
        end = self.length + k_BHTD.shape[2]
        if end > self.max_length:
            raise ValueError(f"the cache has room for {self.max_length} tokens and {end} are needed")
        self.kv[layer, 0, :, :, self.length : end] = k_BHTD
        self.kv[layer, 1, :, :, self.length : end] = v_BHTD
        return self.kv[layer, 0, :, :, :end], self.kv[layer, 1, :, :, :end]


class Rotary(nn.Module):
    """Rotates pairs of channels by an angle proportional to the position (Su et al. 2021)."""

    table: Tensor

    def __init__(self, head_dim: int, base: float) -> None:
        super().__init__()
        self.head_dim, self.base = head_dim, base
        self.register_buffer("table", torch.empty(2, 0, head_dim), persistent=False)

    def forward(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Return cos and signed sin of positions [start, end), each of shape (1, T, 1, 1, D)."""
        if self.table.shape[1] < end:
            self.table = self._grow(end)
        cos, sin = self.table[:, start:end, None, None]
        return cos[None], sin[None]

    def _grow(self, length: int) -> Tensor:
        # In float64 on the CPU, so that every device and table length gives the same values.
        exponent = torch.arange(0, self.head_dim, 2, dtype=torch.float64) / self.head_dim
        angle = torch.arange(length, dtype=torch.float64)[:, None] * self.base**-exponent
        cos, sin = angle.cos(), angle.sin()
        table = torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)))
        return table.to(device=self.table.device, dtype=torch.float32)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the halves of the last dimension; `sin` includes the sign of the first half."""
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


class Block(nn.Module):
    """Pre-norm attention and feed-forward layers with residual connections."""

    segments: ClassVar = ("attention", "feed_forward")
    """Names of the methods that activation checkpointing can recompute."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        width = config.d_model
        self.layer, self.heads, self.head_dim = layer, config.heads, width // config.heads
        self.dropout = config.dropout
        self.window = config.attention.window_of(layer)
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width, bias=False)
        self.mlp_in = nn.Linear(width, config.hidden, bias=False)
        self.mlp_out = nn.Linear(config.hidden, width, bias=False)

    def forward(
        self,
        x_BTC: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: KVCache | None = None,
        keys_BT: Tensor | None = None,
    ) -> Tensor:
        """Return the residual stream after this block, appending its keys and values to a cache.

        With `keys_BT`, attention is bidirectional, over the positions where it is True.
        """
        x_BTC = x_BTC + self.attention(x_BTC, cos, sin, cache, keys_BT)
        return x_BTC + self.feed_forward(x_BTC)

    def attention(
        self,
        x_BTC: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: KVCache | None = None,
        keys_BT: Tensor | None = None,
    ) -> Tensor:
        """Return the contribution of attention to the residual stream."""
        B, T, C = x_BTC.shape
        qkv = self.qkv(self.attention_norm(x_BTC)).view(B, T, 3, self.heads, self.head_dim)
        qk, v = qkv.split((2, 1), dim=2)
        q, k = rotate(qk, cos, sin).to(v.dtype).permute(2, 0, 3, 1, 4).unbind(0)
        v = v.squeeze(2).transpose(1, 2)
        if keys_BT is not None:
            y = attend_both_ways(q, k, v, keys_BT)
        elif cache is None:
            y = attend(q, k, v, self.window)
        else:
            y = attend_cached(q, *cache.extend(self.layer, k, v), self.window)
        return self._drop(self.attention_out(y.transpose(1, 2).reshape(B, T, C)))

    def feed_forward(self, x_BTC: Tensor) -> Tensor:
        """Return the contribution of the feed-forward layer to the residual stream."""
        hidden = F.gelu(self.mlp_in(self.mlp_norm(x_BTC)), approximate="tanh")
        return self._drop(self.mlp_out(hidden))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Transformer(nn.Module):
    """A causal language model: `model(tokens_BT) -> logits_BTV`; position t predicts token t + 1."""

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config, self.vocabulary_size, self.dropout = config, vocabulary_size, config.dropout
        self.embedding = nn.Embedding(vocabulary_size, config.d_model)
        self.rotary = Rotary(config.d_model // config.heads, config.rotary_base)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = nn.LayerNorm(config.d_model, bias=False)
        self.head = nn.Linear(config.d_model, vocabulary_size, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight

    def initialise(self, seed: int) -> None:
        """Initialise all weights from `seed`."""
        initialise(self, self.config, seed)

    def set_dropout(self, probability: float) -> None:
        """Set the dropout probability."""
        self.dropout = probability
        for block in self.blocks:
            cast(Block, block).dropout = probability

    def new_cache(
        self,
        batch_size: int,
        max_length: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> KVCache:
        """Create an empty cache for sampling `batch_size` sequences of up to `max_length` tokens."""
        return KVCache(self.config, batch_size, max_length, device, dtype)

    def forward(self, tokens_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return logits_BTV. With a cache, `tokens_BT` continue its tokens and are appended to it."""
        logits_BTV: Tensor = self.head(self.states(tokens_BT, cache))
        return logits_BTV

    def states(
        self, tokens_BT: Tensor, cache: KVCache | None = None, injected: Iterable[Tensor] | None = None
    ) -> Tensor:
        """Return the normalised states_BTC before `head`; the cache is used as in `forward`.

        `injected` has one tensor of shape BTC per block, added to the block's input.
        """
        start = cache.length if cache is not None else 0
        T = tokens_BT.shape[1]
        cos, sin = self.rotary(start, start + T)
        x_BTC = self.embedding(tokens_BT)
        if self.dropout:
            x_BTC = F.dropout(x_BTC, self.dropout, self.training)
        if injected is None:
            for block in self.blocks:
                x_BTC = block(x_BTC, cos, sin, cache)
        else:
            for block, extra_BTC in zip(self.blocks, injected, strict=True):
                x_BTC = block(x_BTC + extra_BTC, cos, sin, cache)
        if cache is not None:
            cache.length += T
        states_BTC: Tensor = self.norm(x_BTC)
        return states_BTC


def initialise(module: nn.Module, config: ModelConfig, seed: int) -> None:
    """Initialise as GPT-2 does: normal with σ = 0.02, residual projections with σ / √(2·layers), biases 0.

    The values depend on the seed and the shapes alone, not on the device or on the global generator.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            residual = name.endswith(("attention_out.weight", "mlp_out.weight"))
            scale = 0.02 / math.sqrt(2 * config.layers) if residual else 0.02
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, scale, generator=generator))


def token_loss_sum(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Return the cross-entropy in nats, summed over the targets that are not IGNORED."""
    return F.cross_entropy(
        logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), ignore_index=IGNORED, reduction="sum"
    )
