"""Imports hooks, runs the metrics, and turns what hooks raise into one sentence that names them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from aurl_trainer.errors import AurlError, UserError
from aurl_trainer.hooks.config import HooksConfig, LossHook, MetricHook
from aurl_trainer.hooks.interface import Evaluation
from aurl_trainer.monitor.failure import classify
from aurl_trainer.system.randomness import random_state, restore_random_state


@dataclass(frozen=True)
class Hook:
    """One function with its name; `label` identifies it in messages."""

    name: str
    label: str
    function: Callable[[Any], Any]
    weight: float = 1.0

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Turn what the function raises into a UserError, except for running out of memory."""
        try:
            yield
        except Exception as error:  # user code may raise anything
            if isinstance(error, AurlError) or classify(error)[0] in ("OutOfMemory", "Hardware"):
                raise
            raise UserError(
                f"The {self.label} raised {type(error).__name__}: {error}; fix it or remove it from "
                "training.hooks."
            ) from error


@dataclass(frozen=True)
class Hooks:
    """All hooks of a job."""

    losses: list[Hook] = field(default_factory=list)
    metrics: list[Hook] = field(default_factory=list)


def load_hooks(config: HooksConfig, volume: Path) -> Hooks:
    """Import the functions in `config`. Raises UserError naming one that cannot be imported."""
    if config.path:
        directory = volume / config.path
        if not directory.is_dir():
            raise UserError(f"training.hooks.path: there is no directory {directory}.")
        if str(directory) not in sys.path:
            # Last, so that no file hides an installed module of the same name.
            sys.path.append(str(directory))
    return Hooks(
        losses=[_load(hook, "loss", hook.weight) for hook in config.losses],
        metrics=[_load(hook, "metric", 1.0) for hook in config.metrics],
    )


def _load(hook: LossHook | MetricHook, kind: str, weight: float) -> Hook:
    label = f"{kind} hook {hook.name} ({hook.function})"
    module, _, name = hook.function.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # importing runs user code
        raise UserError(
            f"The {label} cannot be imported: {type(error).__name__}: {error}; see training.hooks."
        ) from error
    if not callable(function):
        raise UserError(f"The {label} is not a function but {type(function).__name__}; see training.hooks.")
    return Hook(hook.name, label, function, weight)


@torch.no_grad()
def measure(hooks: Sequence[Hook], evaluation: Evaluation) -> dict[str, float]:
    """Return each metric by name, leaving the random generators as they were.

    Raises UserError naming a hook that raises or does not return a number.
    """
    if not hooks:
        return {}
    before = random_state(evaluation.device)
    evaluation.model.eval()
    values = {}
    for hook in hooks:
        with hook.blamed():
            value = hook.function(evaluation)
        try:
            values[hook.name] = float(value)
        except (TypeError, ValueError, RuntimeError):
            raise UserError(
                f"The {hook.label} must return one number and returned {type(value).__name__}."
            ) from None
    evaluation.model.train()
    restore_random_state(before, evaluation.device)
    return values
