"""The interface of the optimizers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn


class Optimizer(ABC):
    """An update rule whose state is a set of named tensors and whose update can be rejected on the device.

    Weight decay applies to matrices and not to vectors (norms, biases). The state exists from the start, so
    that it can be restored. For sharded parameters it is sharded the same way, and each rank updates its own
    rows.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = dict(parameters)

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return the state as named tensors (not copies)."""

    @abstractmethod
    def step(self, rate: float, decay: float, divisor: Tensor, rejected: Tensor) -> None:
        """Apply one update with the gradients divided by `divisor`, or none if `rejected` is 1.

        `rate` is the learning rate and `decay` the weight decay of this step. `divisor` and `rejected` are
        scalars on the parameters' device, for which the host does not wait. Every parameter must have a
        gradient.
        """

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None
