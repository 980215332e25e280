"""What the training loop needs of a mode."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, TypeAlias

from torch import Tensor, nn

from aurl_trainer.distributed.runtime import Distributed
from aurl_trainer.losses.weighted import WeightedTerms
from aurl_trainer.objective.adversary import Adversary

MicroBatch: TypeAlias = tuple[Tensor, Tensor]
"""Inputs and targets, both of shape BT; targets that are IGNORED do not count."""


class Losses(NamedTuple):
    """The loss of a micro-batch, summed over its targets."""

    minimised: Tensor
    reported: Tensor
    """Nats of the targets; with latents the negative ELBO, an upper bound of it. May have a gradient."""
    extra: Tensor | None = None
    """(terms,) the user's extra terms before their weights, without gradient."""

    def detached(self) -> Losses:
        """Return the values without what the backward pass needs."""
        return Losses(self.minimised.detach(), self.reported.detach(), self.extra)


class Objective(ABC):
    """A mode: its model, its loss, its evaluation."""

    model: nn.Module
    """Holds every parameter of the first player, under the names of the checkpoint."""
    network: nn.Module
    """The module that DDP or FSDP wraps; `losses` gets it back wrapped."""
    terms: WeightedTerms | None = None
    """The terms of the loss; None where it is the plain cross-entropy."""
    adversary: Adversary | None = None
    """The second player."""
    extra_terms: Sequence[str] = ()
    """Names of the terms in `Losses.extra`."""

    @abstractmethod
    def losses(self, network: nn.Module, inputs_BT: Tensor, targets_BT: Tensor, step: int) -> Losses:  # noqa: N803
        """Return the loss of a micro-batch in optimizer step `step`."""

    def rehearse(self, network: nn.Module, tokens_BT: Tensor, step: int) -> Tensor:  # noqa: N803
        """Return the loss of a pass whose result is thrown away; user code is not called."""
        return self.losses(network, tokens_BT, tokens_BT, step).minimised

    @abstractmethod
    def evaluate(
        self,
        batches: Iterable[MicroBatch],
        distributed: Distributed,
        precision: AbstractContextManager[object],
    ) -> dict[str, float]:
        """Return measures over held-out micro-batches of all ranks; empty when there are none.

        `loss` is `Losses.reported` per token. Changes no weight and no random generator.
        """

    def weight_jumps_at(self, step: int) -> bool:
        """Return True if the weight of a term of the loss jumps in this step."""
        return self.terms is not None and self.terms.weight_jumps_at(step)

    def components(self, distributed: Distributed) -> dict[str, float]:
        """Return the mean of each term over all ranks since the last call; the host waits for the device."""
        if self.terms is None:
            return {}
        means = self.terms.take(distributed)
        return means | self.adversary.terms.take(distributed) if self.adversary is not None else means

    def forget(self) -> None:
        """Drop what passes have left for the log and for the second player."""
        if self.terms is not None:
            self.terms.counts.zero_()
        if self.adversary is not None:
            self.adversary.batches.clear()
