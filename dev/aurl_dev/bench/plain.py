"""The baseline: a hand-written loop around the same model, on tensors in memory."""

from __future__ import annotations

import time

import torch
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from aurl_trainer.model.config import ModelConfig
from aurl_trainer.model.transformer import Transformer


class PlainLoop:
    """Fused AdamW, clipping by norm and nothing else: no data loading, metrics, checks or checkpoints."""

    def __init__(self, model: ModelConfig, vocabulary_size: int, batch: int, length: int) -> None:
        self.model = Transformer(model, vocabulary_size)
        self.model.initialise(0)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True
        )
        generator = torch.Generator().manual_seed(0)
        shape = (64, batch, length + 1)
        self.tokens = torch.randint(0, vocabulary_size, shape, generator=generator)
        self.seconds(5)

    def seconds(self, steps: int) -> float:
        """Train `steps` steps and return their duration."""
        parameters = list(self.model.parameters())
        began = time.perf_counter()
        for step in range(steps):
            tokens = self.tokens[step % len(self.tokens)]
            logits = self.model(tokens[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - began
