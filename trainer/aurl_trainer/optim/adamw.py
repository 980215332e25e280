"""AdamW (Loshchilov and Hutter 2019) on PyTorch's fused kernel; the device decides if an update is applied.

torch.optim.AdamW calls the same kernel. It is called directly because constructing any torch.optim.Optimizer
imports all of TorchDynamo (2 s of CPU and 75 MB per rank), and because gating an update through its
undocumented `grad_scale` and `found_inf` attributes would hide what happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from aurl_trainer.distributed.sharding import local, local_gradients
from aurl_trainer.optim.optimizer import Optimizer

FUSED: Final = ("cpu", "cuda")
"""Devices whose fused kernel can skip an update; the kernel for MPS has no such argument."""


class AdamW(Optimizer):
    """Keeps two moments per weight."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], beta1: float, beta2: float, epsilon: float
    ) -> None:
        super().__init__(parameters)
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.first = {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
        self.second = {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
        device = next(iter(self.parameters.values())).device
        self.steps = torch.zeros((), dtype=torch.float32, device=device)
        """Number of applied updates, for the bias correction."""
        self._update = self._fused if device.type in FUSED else self._composed
        matrices = [name for name, parameter in self.parameters.items() if parameter.ndim >= 2]
        vectors = [name for name, parameter in self.parameters.items() if parameter.ndim < 2]
        self._groups = [
            (
                [self.parameters[name] for name in names],
                [local(self.parameters[name]) for name in names],
                [local(self.first[name]) for name in names],
                [local(self.second[name]) for name in names],
                [self.steps] * len(names),
                decayed,
            )
            for names, decayed in ((matrices, True), (vectors, False))
            if names
        ]

    def tensors(self) -> dict[str, Tensor]:
        """Return the state as named tensors (not copies)."""
        first = {f"exp_avg/{name}": tensor for name, tensor in self.first.items()}
        second = {f"exp_avg_sq/{name}": tensor for name, tensor in self.second.items()}
        return {"steps": self.steps, **first, **second}

    @torch.no_grad()
    def step(self, rate: float, decay: float, divisor: Tensor, rejected: Tensor) -> None:
        """Apply one update, or none if `rejected` is 1; see `Optimizer`."""
        self.steps += 1 - rejected
        self._update(rate, decay, divisor, rejected)

    def _fused(self, rate: float, decay: float, divisor: Tensor, rejected: Tensor) -> None:
        for parameters, own, first, second, steps, decayed in self._groups:
            torch._fused_adamw_(
                own,
                local_gradients(parameters),
                first,
                second,
                [],
                steps,
                lr=rate,
                beta1=self.beta1,
                beta2=self.beta2,
                weight_decay=decay if decayed else 0.0,
                eps=self.epsilon,
                amsgrad=False,
                maximize=False,
                grad_scale=divisor,
                found_inf=rejected,
            )

    def _composed(self, rate: float, decay: float, divisor: Tensor, rejected: Tensor) -> None:
        """Do the same as the fused kernel, in single operations."""
        refuse = rejected.bool()
        correction1, correction2 = 1 - self.beta1**self.steps, 1 - self.beta2**self.steps
        for parameters, own, firsts, seconds, _, decayed in self._groups:
            kept = 1 - rate * decay if decayed else 1.0
            gradients = local_gradients(parameters)
            for parameter, gradient, first, second in zip(own, gradients, firsts, seconds, strict=True):
                gradient = gradient / divisor
                new_first = torch.lerp(gradient, first, self.beta1)
                new_second = torch.lerp(gradient.square(), second, self.beta2)
                step = new_first / correction1 / ((new_second / correction2).sqrt() + self.epsilon)
                parameter.copy_(torch.where(refuse, parameter, parameter * kept - rate * step))
                first.copy_(torch.where(refuse, first, new_first))
                second.copy_(torch.where(refuse, second, new_second))
