"""Choice of the optimizer."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from aurl_trainer.optim.adafactor import Adafactor
from aurl_trainer.optim.adamw import AdamW
from aurl_trainer.optim.config import OptimizerConfig
from aurl_trainer.optim.lion import Lion
from aurl_trainer.optim.optimizer import Optimizer


def make_optimizer(parameters: Mapping[str, nn.Parameter], config: OptimizerConfig) -> Optimizer:
    """Return the optimizer of `config.kind` for the named parameters."""
    if config.kind == "adafactor":
        return Adafactor(parameters)
    if config.kind == "lion":
        return Lion(parameters, config.beta1, config.beta2)
    return AdamW(parameters, config.beta1, config.beta2, config.epsilon)
