"""Schedules as pure functions of the step, so that a resumed run needs no state for them.

Plateaus and roll-backs scale the learning rate by a further factor, in `Progress`.
"""

from __future__ import annotations

import math
from typing import Final

from aurl_trainer.optim.config import RampConfig, ScheduleConfig

DROPOUT_LEVELS: Final = 32


def learning_rate(config: ScheduleConfig, peak: float, step: int, total_steps: int) -> float:
    """Return the learning rate of optimizer step `step`, counted from 1 to `total_steps`.

    Warm-up rises linearly to `peak`; then progress p runs from 0 to 1 at the last step, and the rate falls
    from `peak` to `final_ratio` · `peak`: cosine as ½(1 + cos πp) (Loshchilov and Hutter 2017), linear as
    1 − p, polynomial as (1 − p)^power. Inverse-sqrt is peak · √(warm-up / step) (Vaswani et al. 2017).
    """
    warmup = min(config.warmup_steps, total_steps)
    if step <= warmup:
        return peak * step / warmup
    if config.kind in ("constant", "plateau"):
        return peak
    if config.kind == "inverse-sqrt":
        return peak * max(config.final_ratio, math.sqrt(max(1, warmup) / step))
    p = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    if config.kind == "cosine":
        left = 0.5 * (1 + math.cos(math.pi * p))
    else:
        left = (1 - p) ** config.power if config.kind == "polynomial" else 1 - p
    return peak * (config.final_ratio + (1 - config.final_ratio) * left)


def ramp(config: RampConfig, first: float, step: int, total_steps: int) -> float:
    """Return a value that goes from `first` at step 1 to `config.final` at the last step.

    Linear: first + (final − first)·p; cosine: first + (final − first)·(1 − cos πp) / 2, p from 0 to 1.
    """
    if config.final is None or total_steps == 1:
        return first
    p = (step - 1) / (total_steps - 1)
    if config.kind == "cosine":
        p = (1 - math.cos(math.pi * p)) / 2
    return first + (config.final - first) * p


def dropout_at(config: RampConfig, first: float, step: int, total_steps: int) -> float:
    """Return the dropout of a step: the ramp in DROPOUT_LEVELS equal stairs, both ends exact.

    A compiled model is recompiled for each value, so there must not be one per step.
    """
    if config.final is None:
        return first
    stair = (config.final - first) / DROPOUT_LEVELS
    if stair == 0:
        return first
    number = round((ramp(config, first, step, total_steps) - first) / stair)
    return config.final if number == DROPOUT_LEVELS else first + stair * number
