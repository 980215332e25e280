"""torch.compile of the model's blocks; all shapes are compiled before step 1, none afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from aurl_trainer.errors import UserError
from aurl_trainer.model.token_loss import token_loss_sum_in_place
from aurl_trainer.model.transformer import Block, token_loss_sum

GRAPHS_PER_SHAPE = 8
"""Graphs of one function that each shape may need: blocks differ in their attention and their inputs. It is
TorchDynamo's own limit for all shapes together."""

TokenLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class Compilation:
    """The blocks and loss that the loop runs, compiled or, unless `enabled`, as they are.

    Blocks are alike, so one graph per shape serves them all, and 48 compile as fast as 1. TorchDynamo is
    imported only when needed: it costs a rank two seconds and 75 MB.
    """

    def __init__(self, model: nn.Module, device: torch.device, *, enabled: bool) -> None:
        """Make each block of `model` compile at its first call. Raises UserError without a C++ compiler."""
        self.enabled = enabled
        self._shapes = 0
        self.token_loss: TokenLoss = token_loss_sum
        self.last_loss: TokenLoss = token_loss_sum_in_place
        """The same loss, which may overwrite the logits."""
        if not enabled:
            return
        if device.type == "cpu" and not any(map(shutil.which, ("g++", "c++", "clang++"))):
            raise UserError(
                "training.compile needs a C++ compiler on a CPU, and this machine has none: install g++ or "
                "set training.compile to false."
            )
        for block in [module for module in model.modules() if isinstance(module, Block)]:
            block.compile(fullgraph=True, dynamic=False)
        self.token_loss = cast(TokenLoss, torch.compile(token_loss_sum, fullgraph=True, dynamic=False))
        self.last_loss = self.token_loss  # the compiler finds in-place operations itself

    def expect(self, shapes: int) -> None:
        """Allow graphs for this many more shapes; beyond what is allowed, compilation raises an error."""
        self._shapes += shapes
        if self.enabled:
            from torch._dynamo import config

            config.recompile_limit = GRAPHS_PER_SHAPE * self._shapes
            config.accumulated_recompile_limit = max(
                config.accumulated_recompile_limit, config.recompile_limit
            )

    def graphs(self) -> int:
        """Return the number of graphs this process has compiled so far."""
        if not self.enabled:
            return 0
        from torch._dynamo.utils import counters

        return int(counters["stats"]["unique_graphs"])

    def paused(self) -> AbstractContextManager[object]:
        """Return a context without compilation, for evaluation and sampling.

        Their shapes differ and are too rare to be worth compiling.
        """
        return torch.compiler.set_stance("force_eager") if self.enabled else nullcontext()
