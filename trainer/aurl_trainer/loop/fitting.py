"""Fits a job into memory: the size of micro-batches and the mode of activation checkpointing.

What the job file leaves open is measured before the first step, agreed between ranks, and kept in every
checkpoint: rounding depends on the size of micro-batches, so a restarted job must use the same one. The
global batch and the learning rate do not depend on it.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

from aurl_trainer.config import TrainingConfig
from aurl_trainer.contract import Variable
from aurl_trainer.data.curriculum import Curriculum
from aurl_trainer.distributed.runtime import Distributed
from aurl_trainer.errors import OutOfMemoryError, UserError
from aurl_trainer.loop.batches import Batches
from aurl_trainer.memory.activation import ActivationCheckpointing, Mode
from aurl_trainer.memory.capacity import MARGIN, Meter, make_meter
from aurl_trainer.memory.exhaustion import is_out_of_memory
from aurl_trainer.memory.search import largest_that_fits, pass_sizes
from aurl_trainer.system.host_memory import HostMemory

log = logging.getLogger("aurl_trainer.train")

MODES: tuple[Mode, ...] = ("none", "selective", "full")
TIMED_PASSES = 3
SHRINK = 0.75
"""After running out of memory, the next size is at most this share of the last: a little less is no help."""

Trial: TypeAlias = Callable[[int, int], float]
"""Runs a forward and backward pass of (samples, tokens per sample) on this rank, throws the result away and
returns the seconds."""


@dataclass(frozen=True)
class MemoryPlan:
    """Samples of contextLength tokens in a pass, and the mode of activation checkpointing."""

    micro_batch_size: int
    activation_checkpointing: Mode
    out_of_memory_restarts: int = 0
    """Restarts after running out of memory that the size accounts for."""


def out_of_memory_restarts(environment: Mapping[str, str] = os.environ) -> int:
    """Return how often the operator has restarted this job after it ran out of memory. Raises UserError."""
    text = environment.get(Variable.OUT_OF_MEMORY_RESTARTS, "").strip() or "0"
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"AURL_OUT_OF_MEMORY_RESTARTS is {text!r} but must be an integer of at least 0.")
    return int(text)


class Fitting:
    """Finds the memory plan of a job, and applies it to its batches and its model."""

    def __init__(
        self,
        config: TrainingConfig,
        distributed: Distributed,
        checkpointing: ActivationCheckpointing,
        batches: Batches,
        restarts: int = 0,
    ) -> None:
        batch, memory = config.batch, config.memory
        self.distributed, self.checkpointing, self.batches = distributed, checkpointing, batches
        self.restarts = restarts
        self.share = -(-batch.global_batch_size // distributed.world_size)
        self.pinned = batch.micro_batch_size > 0
        self.least = 1 if self.pinned else batch.min_micro_batch_size
        pinned = [min(batch.micro_batch_size, self.share)]
        self.sizes = pinned if self.pinned else pass_sizes(self.share, self.least, batch.max_micro_batch_size)
        wanted = memory.activation_checkpointing
        self.modes: Sequence[Mode] = MODES if wanted == "auto" else (wanted,)
        self.request: dict[str, Any] = {
            "batch": batch.model_dump(mode="json", by_alias=True),
            "contextLength": config.context_length,
            "activationCheckpointing": wanted,
            "segments": checkpointing.names,
        }
        self.plan = MemoryPlan(self.sizes[-1], self.modes[0])

    @property
    def open(self) -> bool:
        """True if the job file leaves something to measure."""
        return len(self.sizes) > 1 or len(self.modes) > 1

    def to_json(self) -> dict[str, Any]:
        """Return JSON values for a checkpoint."""
        return {"request": self.request, "plan": asdict(self.plan)}

    def resume(self, saved: Mapping[str, Any] | None) -> bool:
        """Use the plan of a checkpoint; False if it has none or the job file now asks for something else."""
        if saved is None or saved["request"] != self.request:
            return False
        self._adopt(MemoryPlan(**saved["plan"]))
        return True

    def decide(self, trial: Trial, curriculum: Curriculum, host: HostMemory, reserve: int) -> None:
        """Measure and choose a plan; every rank must call it.

        `reserve` is the number of bytes that will be allocated before the first step. Raises OutOfMemoryError
        when the smallest size does not fit.
        """
        if self.open:
            meter = make_meter(self.distributed.device, host, self.distributed.layout.local_world_size)
            self._adopt(self._best(lambda: _Trials(trial, meter, curriculum, self.distributed, reserve)))
        else:
            self._adopt(self.plan)

    def shrink(self, step: int) -> int:
        """Make micro-batches smaller and return their previous size; all ranks call it in the same step.

        Raises OutOfMemoryError when they are as small as allowed.
        """
        before = self.plan.micro_batch_size
        sizes = pass_sizes(self.share, self.least, before)
        smaller = [size for size in sizes if size <= before * SHRINK]
        if not smaller:
            raise OutOfMemoryError(
                f"Step {step} does not fit into memory with micro-batches of {before} samples, the fewest "
                "allowed: raise the memory limit, set memory.activationCheckpointing, or lower contextLength."
            )
        self._adopt(replace(self.plan, micro_batch_size=smaller[-1]))
        return before

    def _best(self, prepare: Callable[[], _Trials]) -> MemoryPlan:
        best, fastest = None, 0.0
        for mode in self.modes:
            self.checkpointing.switch(mode)
            trials = prepare()
            size = largest_that_fits(self.sizes, trials.load)
            speed = trials.tokens_per_second(size) if size is not None else 0.0
            if self.distributed.rank == 0:
                found = {"activation_checkpointing": mode, "micro_batch_size": size, "loads": trials.loads}
                log.info("memory probe", extra=found | {"tokens_per_second": speed})
            if size is not None and speed > fastest:
                best, fastest = MemoryPlan(size, mode), speed
        if best is None and self.pinned:  # use the least memory possible: it may fit without the margin
            best = MemoryPlan(self.sizes[0], self.modes[-1])
        if best is None:
            raise OutOfMemoryError(
                f"A micro-batch of {self.sizes[0]} samples does not fit into memory: raise the memory "
                "limit, lower batch.minMicroBatchSize or contextLength, or set "
                "memory.activationCheckpointing."
            )
        return best

    def _adopt(self, plan: MemoryPlan) -> None:
        """Halve the size once per restart that it does not account for yet, and apply the plan."""
        halvings = max(0, self.restarts - plan.out_of_memory_restarts)
        size = max(1, plan.micro_batch_size >> halvings)
        if halvings and self.distributed.rank == 0:
            log.warning(
                "micro-batches are smaller after running out of memory",
                extra={"restarts": self.restarts, "before": plan.micro_batch_size, "now": size},
            )
        self.plan = replace(
            plan,
            micro_batch_size=size,
            out_of_memory_restarts=max(self.restarts, plan.out_of_memory_restarts),
        )
        self.least = min(self.least, size)
        self.checkpointing.switch(plan.activation_checkpointing)
        self.batches.cut_into(size)


class _Trials:
    """Measures passes on this rank, and agrees with the others on the worst."""

    def __init__(
        self, trial: Trial, meter: Meter, curriculum: Curriculum, distributed: Distributed, reserve: int
    ) -> None:
        self.trial, self.meter, self.curriculum, self.distributed = trial, meter, curriculum, distributed
        trial(1, curriculum.lengths[0])  # libraries allocate once, whatever the size
        meter.begin()
        distributed.highest(0.0)  # no rank allocates before all have read what is free
        self.held = meter.held()
        self.usable = meter.capacity() * (1 - MARGIN) - self.held - reserve
        distributed.highest(0.0)
        self.loads: dict[int, float] = {}
        """The measured loads, by size."""

    def load(self, size: int) -> float:
        """Return the largest share of the usable memory that `size` samples take, over lengths and ranks."""
        worst = 0.0
        for length in reversed(self.curriculum.lengths):
            worst = max(
                worst, self.distributed.highest(self._load(self.curriculum.samples(size, length), length))
            )
            if worst > 1:  # the same on all ranks
                break
        self.loads[size] = round(worst, 4)
        return worst

    def tokens_per_second(self, size: int) -> float:
        """Return the speed of the slowest rank at the longest length."""
        length = self.curriculum.lengths[-1]
        samples = self.curriculum.samples(size, length)
        seconds = min(self.trial(samples, length) for _ in range(TIMED_PASSES))
        return samples * length / self.distributed.highest(seconds)

    def _load(self, samples: int, length: int) -> float:
        self.meter.begin()
        try:
            self.trial(samples, length)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return math.inf
        taken = max(0, self.meter.peak() - self.held)
        return taken / self.usable if self.usable > 0 else math.inf
