"""Passes before the first step whose results are thrown away."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from torch import nn

from aurl_trainer.model.compilation import Compilation
from aurl_trainer.objective.objective import Objective


def warm_up(
    objective: Objective,
    network: nn.Module,
    shapes: Iterable[tuple[int, int]],
    step: int,
    precision: AbstractContextManager[object],
    device: torch.device,
) -> None:
    """Run throw-away passes of optimizer step `step` for each shape (samples, tokens per sample).

    After its first pass DDP fixes the order in which it adds gradients up; without this, a resumed run would
    add up its first step in another order than the run it continues. It also allocates memory before the
    first step.
    """
    for shape in shapes:
        tokens = torch.zeros(shape, dtype=torch.int64, device=device)
        for _ in range(2):  # DDP rebuilds its buckets at the start of the second
            with precision:
                loss = objective.rehearse(network, tokens, step)
            torch.autograd.backward(loss)
            _drop_gradients(network)
    objective.forget()


def timed_pass(
    objective: Objective,
    step: int,
    compilation: Compilation,
    precision: AbstractContextManager[object],
    device: torch.device,
    samples: int,
    length: int,
) -> float:
    """Run an uncompiled forward and backward pass, throw the result away and return the seconds."""
    tokens = torch.zeros(samples, length, dtype=torch.int64, device=device)
    started = time.perf_counter()
    with compilation.paused():
        with precision:
            loss = objective.rehearse(objective.network, tokens, step)
        torch.autograd.backward(loss)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started
    objective.forget()
    _drop_gradients(objective.network)
    return seconds


def _drop_gradients(network: nn.Module) -> None:
    for parameter in network.parameters():
        parameter.grad = None
