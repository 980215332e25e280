"""Between checkpoints and the loop: collect what is saved, choose the newest, restore it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from aurl_trainer.checkpoint.manager import (
    EMA_FILE,
    MODEL_FILE,
    OPTIMIZER_FILE,
    Checkpoint,
    CheckpointManager,
    Contents,
)
from aurl_trainer.checkpoint.state import Progress, TrainingIdentity
from aurl_trainer.distributed.runtime import Distributed
from aurl_trainer.distributed.sharding import read_into
from aurl_trainer.errors import CheckpointMismatchError
from aurl_trainer.monitor.report import RankReporter
from aurl_trainer.objective.adversary import Adversary
from aurl_trainer.optim.ema import WeightAverage
from aurl_trainer.optim.guard import UpdateGuard
from aurl_trainer.optim.optimizer import Optimizer
from aurl_trainer.system.randomness import random_state, restore_random_state

log = logging.getLogger("aurl_trainer.train")

GUARD = "guard/"
"""Prefix of the guard's tensors beside those of the optimizer."""

CRITIC = "critic/"
"""Prefix of the critic's tensors."""

EMA_UPDATES = "ema/updates"
"""Number of averaged updates, among the optimizer's tensors."""


class TrainingState:
    """Everything that a step changes: weights, their average, optimizer, guard, progress, generators."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        optimizer: Optimizer,
        guard: UpdateGuard,
        identity: TrainingIdentity,
        distributed: Distributed,
        threads: int,
        average: WeightAverage | None = None,
        adversary: Adversary | None = None,
    ) -> None:
        self.parameters, self.optimizer, self.guard, self.identity, self.distributed = (
            parameters,
            optimizer,
            guard,
            identity,
            distributed,
        )
        self.average, self.adversary = average, adversary
        self.memory: dict[str, Any] = {}
        """The memory plan, for the next attempt of this job."""
        self.layout = {
            "worldSize": distributed.world_size,
            "strategy": distributed.strategy,
            "threads": threads,
            "device": distributed.device.type,
            "torch": str(torch.__version__),
        }

    def contents(self, progress: Progress, config: dict[str, Any]) -> Contents:
        """Return what a checkpoint holds, with references to tensors or shards. Every rank must call it."""
        states = self.distributed.gather_text(json.dumps(random_state(self.distributed.device)))
        return Contents(
            model=self.parameters,
            optimizer=self._optimizer_tensors(),
            state={
                "progress": progress.to_json(),
                "identity": self.identity.to_json(),
                "layout": self.layout,
                "memory": self.memory,
            },
            config=config,
            ranks=states,
            ema=self.average.average if self.average is not None else {},
        )

    def saved_memory(self, checkpoint: Checkpoint | None) -> dict[str, Any] | None:
        """Return the memory plan of a checkpoint; None if it has none, or the layout of ranks has changed."""
        state = checkpoint.read_json("state.json") if checkpoint is not None else {}
        found: dict[str, Any] | None = state.get("memory") if state.get("layout") == self.layout else None
        return found

    def restore(self, checkpoint: Checkpoint) -> Progress:
        """Copy everything in the checkpoint to its place and return the progress.

        Raises CheckpointMismatchError if it belongs to another model, vocabulary or dataset.
        """
        state = checkpoint.read_json("state.json")
        self.identity.refuse_other(state["identity"], f"The checkpoint {checkpoint.path.name}")
        own = self.optimizer.tensors()
        with checkpoint.open_tensors(MODEL_FILE) as weights:
            for name, parameter in self.parameters.items():
                read_into(parameter, weights, name)
        with checkpoint.open_tensors(OPTIMIZER_FILE) as tensors:
            missing = sorted(own.keys() - set(tensors.keys()))
            if missing:
                raise CheckpointMismatchError(
                    f"The checkpoint {checkpoint.path.name} was saved by another optimizer: it has no "
                    f"{missing[0]}. Set optimizer.kind back, or give the job another name."
                )
            for name, tensor in (own | self._critic_tensors()).items():
                read_into(tensor, tensors, name)
            for prefix, guard in self._guards().items():
                guard.restore({name: tensors.get_tensor(prefix + name) for name in guard.tensors()})
            if self.average is not None:
                self._restore_average(self.average, checkpoint, tensors)
        if self.layout == state["layout"]:
            restore_random_state(
                checkpoint.read_json(f"rank-{self.distributed.rank}.json"), self.distributed.device
            )
        elif self.distributed.rank == 0:
            log.warning(
                "the layout of ranks has changed: data order stays the same, rounding and dropout do not",
                extra={"before": state["layout"], "now": self.layout},
            )
        return Progress.from_json(state["progress"])

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        guards = {
            prefix + name: tensor
            for prefix, guard in self._guards().items()
            for name, tensor in guard.tensors().items()
        }
        average = {EMA_UPDATES: self.average.updates} if self.average is not None else {}
        return self.optimizer.tensors() | guards | average | self._critic_tensors()

    def _guards(self) -> dict[str, UpdateGuard]:
        critic = {CRITIC + GUARD: self.adversary.guard} if self.adversary is not None else {}
        return {GUARD: self.guard, **critic}

    def _critic_tensors(self) -> dict[str, Tensor]:
        tensors = self.adversary.tensors() if self.adversary is not None else {}
        return {CRITIC + name: tensor for name, tensor in tensors.items()}

    def _restore_average(self, average: WeightAverage, checkpoint: Checkpoint, tensors: Any) -> None:
        if not checkpoint.has(EMA_FILE):
            average.begin_again()
            log.warning(
                "the checkpoint has no average of the weights: it starts from the weights",
                extra={"checkpoint": checkpoint.path.name},
            )
            return
        with checkpoint.open_tensors(EMA_FILE) as saved:
            for name, tensor in average.average.items():
                read_into(tensor, saved, name)
        read_into(average.updates, tensors, EMA_UPDATES)


def choose_checkpoint(
    manager: CheckpointManager, distributed: Distributed, reporter: RankReporter
) -> Checkpoint | None:
    """Return the newest checkpoint that passes verification; rank 0 chooses, and reports damaged ones."""
    step = -1
    if distributed.rank == 0:
        manager.clean()
        checkpoint, complaints = manager.latest()
        if checkpoint is not None:
            step = checkpoint.step
        instead = "from the start" if checkpoint is None else f"from step {step}"
        for complaint in complaints:
            report_damage(complaint, instead, manager, reporter)
    step = distributed.from_first(step)
    return manager.at(step) if step >= 0 else None


def report_damage(complaint: str, instead: str, manager: CheckpointManager, reporter: RankReporter) -> None:
    """Report a checkpoint that did not pass verification, and from where training continues."""
    log.warning("damaged checkpoint", extra={"reason": complaint, "instead": instead})
    reporter.checkpoint(0, manager.directory, 0.0, result="damaged")
    reporter.event("CheckpointDamaged", None, f"{complaint} Training continues {instead}.")
