"""Lion (Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms"): equal step sizes, one moment.

    u = sign(β₁ m + (1 − β₁) g);  p ← p − η (u + λ p);  m ← β₂ m + (1 − β₂) g

As with AdamW, the device decides whether an update is applied.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from aurl_trainer.distributed.sharding import local, local_gradients
from aurl_trainer.optim.optimizer import Optimizer


class Lion(Optimizer):
    """Keeps one moment per weight, half the state of AdamW."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], beta1: float, beta2: float) -> None:
        super().__init__(parameters)
        self.beta1, self.beta2 = beta1, beta2
        self.momentum = {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
        self._own = [
            (local(parameter), local(self.momentum[name])) for name, parameter in self.parameters.items()
        ]

    def tensors(self) -> dict[str, Tensor]:
        """Return the state as named tensors (not copies)."""
        return {f"momentum/{name}": tensor for name, tensor in self.momentum.items()}

    @torch.no_grad()
    def step(self, rate: float, decay: float, divisor: Tensor, rejected: Tensor) -> None:
        """Apply one update, or none if `rejected` is 1; see `Optimizer`."""
        refuse = rejected.bool()
        gradients = local_gradients(self.parameters.values())
        for (parameter, momentum), gradient in zip(self._own, gradients, strict=True):
            gradient = gradient / divisor
            direction = torch.lerp(gradient, momentum, self.beta1).sign_()
            kept = 1 - rate * decay if parameter.ndim >= 2 else 1.0
            # A factor of 0 would keep NaN.
            parameter.copy_(torch.where(refuse, parameter, parameter * kept - rate * direction))
            momentum.copy_(torch.where(refuse, momentum, torch.lerp(gradient, momentum, self.beta2)))
