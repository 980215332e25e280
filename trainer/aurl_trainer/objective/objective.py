"""What the training loop needs of a mode."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import NamedTuple

from torch import Tensor, nn

from aurl_trainer.distributed.runtime import Distributed
from aurl_trainer.loop.batches import MicroBatch
from aurl_trainer.losses.weighted import WeightedTerms
from aurl_trainer.objective.adversary import Adversary


class Losses(NamedTuple):
    """The loss of a micro-batch, summed over its targets."""

    objective: Tensor
    """What is minimised."""
    told: Tensor
    """Nats of the targets; with latents the negative ELBO, an upper bound of it. May have a gradient."""


class Objective(ABC):
    """A mode: its model, its loss, its evaluation."""

    model: nn.Module
    """Holds every parameter of the first player, under the names of the checkpoint."""
    network: nn.Module
    """What the ranks wrap, and what `losses` is given back wrapped."""
    terms: WeightedTerms | None = None
    """The terms of the loss; None where it is the plain cross-entropy."""
    adversary: Adversary | None = None
    """The second player."""

    @abstractmethod
    def losses(self, network: nn.Module, inputs_BT: Tensor, targets_BT: Tensor, step: int) -> Losses:  # noqa: N803
        """Return the loss of a micro-batch in optimizer step `step`."""

    @abstractmethod
    def evaluate(
        self,
        batches: Iterable[MicroBatch],
        distributed: Distributed,
        precision: AbstractContextManager[object],
    ) -> dict[str, float]:
        """Return measures over held-out micro-batches of all ranks; empty when there are none.

        `loss` is the one of `Losses.told` per token. Touches no weight and no random generator.
        """

    def components(self, distributed: Distributed) -> dict[str, float]:
        """Return the mean of each term over all ranks since the last call; the host waits for the device."""
        if self.terms is None:
            return {}
        means = self.terms.take(distributed)
        return means | self.adversary.terms.take(distributed) if self.adversary is not None else means

    def forget(self) -> None:
        """Drop what throw-away passes have left for the log and for the second player."""
        if self.terms is not None:
            self.terms.counts.zero_()
        if self.adversary is not None:
            self.adversary.batches.clear()
