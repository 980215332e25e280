"""What the loop needs of an optimizer, and what all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn


class Optimizer(ABC):
    """An update rule whose state is a set of named tensors and whose update may be refused on the device.

    Matrices are decayed and vectors (norms, biases) left alone. The state is there from the beginning, to be
    restored. Of sharded parameters it is sharded in the same way, and each rank updates its own rows.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = dict(parameters)

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return the state as named tensors (not copies)."""

    @abstractmethod
    def step(self, rate: float, decay: float, divisor: Tensor, rejected: Tensor) -> None:
        """Apply one update with the gradients divided by `divisor`, or none at all where `rejected` is 1.

        `rate` is the learning rate and `decay` the weight decay of this step. `divisor` and `rejected` are
        scalars on the parameters' device; the host does not wait for them. Every parameter must have a
        gradient.
        """

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None
