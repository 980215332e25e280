"""The losses since the last log line, summed on the device: the host waits for it only to read them."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from aurl_trainer.checkpoint.state import Progress
from aurl_trainer.distributed.runtime import Distributed
from aurl_trainer.objective.objective import Losses


class IntervalSums:
    """This rank's share of the summed loss and of the user's extra terms, in nats."""

    def __init__(self, extra_terms: Iterable[str], distributed: Distributed) -> None:
        self.extra_terms, self.distributed = list(extra_terms), distributed
        self.loss = torch.zeros((), device=distributed.device)
        self.terms = torch.zeros(len(self.extra_terms), device=distributed.device)

    def add(self, losses: Iterable[Losses]) -> None:
        """Add the losses of a step's micro-batches."""
        for each in losses:
            self.loss += each.reported
            if each.extra is not None:
                self.terms += each.extra

    def take(self, seconds: float) -> tuple[float, list[float], dict[str, float]]:
        """Return the loss over all ranks, every rank's `seconds`, and the extra terms; start again at 0."""
        loss, seconds_of_ranks = self.distributed.sum_and_share(self.loss, seconds)
        terms = self._sum_terms()
        self.loss.zero_()
        self.terms.zero_()
        return loss, seconds_of_ranks, terms

    def save(self, progress: Progress) -> None:
        """Write the sums over all ranks to `progress`, and continue from there."""
        progress.interval_loss = float(self.distributed.sum(self.loss))
        progress.interval_terms = self._sum_terms()
        self.restore(progress)

    def restore(self, progress: Progress) -> None:
        """Continue from the sums in `progress`: rank 0 takes all of them, the others start at 0."""
        first = self.distributed.rank == 0
        terms = [progress.interval_terms.get(name, 0.0) for name in self.extra_terms]
        self.loss.fill_(progress.interval_loss if first else 0.0)
        self.terms.copy_(torch.tensor(terms if first else [0.0] * len(terms)))

    def _sum_terms(self) -> dict[str, float]:
        if not self.extra_terms:
            return {}
        return dict(zip(self.extra_terms, self.distributed.sum(self.terms).tolist(), strict=True))
