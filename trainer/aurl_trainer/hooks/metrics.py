"""Runs the user's metrics at an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from aurl_trainer.errors import UserError
from aurl_trainer.hooks.interface import Evaluation
from aurl_trainer.hooks.load import Hook
from aurl_trainer.system.randomness import random_state, restore_random_state


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
