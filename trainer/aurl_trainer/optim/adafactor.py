"""Adafactor (Shazeer and Stern 2018, "Adaptive Learning Rates with Sublinear Memory Cost").

The second moment of a matrix is kept as the means of its rows and columns, so the state is a few vectors:

    r ← β r + (1 − β) mean_cols(g² + ε);  c ← β c + (1 − β) mean_rows(g² + ε);  β = 1 − t^(−0.8)
    u = g / √(r cᵀ / mean(r));  u ← u / max(1, rms(u));  p ← p − η (u + λ p)

There is no first moment, and the learning rate η comes from the schedule, without relative steps or scaling
by the size of the weights, so that learning rates mean the same as for AdamW (as in Zhai et al. 2022,
"Scaling Vision Transformers"). The device decides whether an update is applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

import torch
from torch import Tensor, nn

from aurl_trainer.optim.optimizer import Optimizer

DECAY_POWER: Final = -0.8
FLOOR: Final = 1e-30
"""Added to squared gradients, so that a row of zeros does not divide by zero."""


class Adafactor(Optimizer):
    """Keeps two vectors per matrix, and the second moments of vectors."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__(parameters)
        device = next(iter(self.parameters.values())).device
        self.updates = torch.zeros((), dtype=torch.float32, device=device)
        """Number of applied updates."""
        self.rows, self.columns, self.second = dict[str, Tensor](), dict[str, Tensor](), dict[str, Tensor]()
        for name, parameter in self.parameters.items():
            zeros = torch.zeros_like(parameter.detach())
            if parameter.ndim >= 2:
                self.rows[name], self.columns[name] = zeros.sum(-1), zeros.sum(-2)
            else:
                self.second[name] = zeros

    def tensors(self) -> dict[str, Tensor]:
        """Return the state as named tensors (not copies)."""
        kinds = {"exp_avg_sq_row": self.rows, "exp_avg_sq_col": self.columns, "exp_avg_sq": self.second}
        state = {f"{kind}/{name}": moment for kind, own in kinds.items() for name, moment in own.items()}
        return {"updates": self.updates, **state}

    @torch.no_grad()
    def step(self, rate: float, decay: float, divisor: Tensor, rejected: Tensor) -> None:
        """Apply one update, or none if `rejected` is 1; see `Optimizer`."""
        refuse = rejected.bool()
        self.updates += 1 - rejected
        keep = torch.where(refuse, 1.0, 1 - self.updates.pow(DECAY_POWER))
        for name, parameter in self.parameters.items():
            gradient = cast(Tensor, parameter.grad) / divisor
            # A rejected gradient may hold NaN, which a factor of 0 would keep.
            square = torch.where(refuse, 0.0, gradient.square() + FLOOR)
            if parameter.ndim >= 2:
                rows, columns = self.rows[name], self.columns[name]
                rows.copy_(torch.lerp(square.mean(-1), rows, keep))
                columns.copy_(torch.lerp(square.mean(-2), columns, keep))
                share = rows / rows.mean(-1, keepdim=True)
                update = gradient * share.rsqrt().unsqueeze(-1) * columns.rsqrt().unsqueeze(-2)
            else:
                second = self.second[name]
                second.copy_(torch.lerp(square, second, keep))
                update = gradient * second.rsqrt()
            update /= update.square().mean().sqrt().clamp(min=1.0)
            updated = parameter * (1 - rate * decay if parameter.ndim >= 2 else 1.0) - rate * update
            parameter.copy_(torch.where(refuse, parameter, updated))
