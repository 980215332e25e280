"""Running out of memory in a step: all ranks run it again, in smaller micro-batches."""

from __future__ import annotations

import gc
import logging
from types import TracebackType
from typing import Literal

import torch

from aurl_trainer.errors import OutOfMemoryError
from aurl_trainer.loop.fitting import Fitting
from aurl_trainer.loop.metric_logger import MetricLogger
from aurl_trainer.memory.exhaustion import ExhaustionSnapshot, is_out_of_memory
from aurl_trainer.stability.anomaly import Action, Anomaly

log = logging.getLogger("aurl_trainer.train")


class OutOfMemoryCatch:
    """A context for the passes of a step that catches failed allocations and nothing else.

    Only passes are covered: before them nothing has been added up, and after them the optimizer has started
    to change weights. Where passes wait for other ranks, as with a sharded model, the error is raised, and
    the job restarts with smaller micro-batches.
    """

    def __init__(self, *, recoverable: bool, snapshot: ExhaustionSnapshot | None) -> None:
        self.recoverable, self.snapshot = recoverable, snapshot
        self.step = 0
        self.caught = False
        """True if the last use of this context caught an error."""

    def during(self, step: int) -> OutOfMemoryCatch:
        """Return this context for `step`."""
        self.step, self.caught = step, False
        return self

    def __enter__(self) -> None:
        """Enter."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | Literal[False]:
        """Catch a failed allocation."""
        if error is None or not isinstance(error, RuntimeError | MemoryError) or not is_out_of_memory(error):
            return False
        if self.snapshot is not None:
            self.snapshot.write(self.step, str(error))
        if not self.recoverable:
            return False
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        log.warning("out of memory", extra={"step": self.step, "reason": reason})
        self.caught = True
        return True


def shrink_micro_batches(fitting: Fitting, metric_logger: MetricLogger, step: int, failures: int) -> None:
    """Choose smaller micro-batches after `failures` ranks ran out of memory in `step`, and report it.

    Raises OutOfMemoryError when they cannot be smaller.
    """
    cause = f"{failures} rank(s) ran out of memory in step {step}"
    try:
        before = fitting.shrink(step)
    except OutOfMemoryError:
        metric_logger.anomaly(
            Anomaly.OUT_OF_MEMORY, Action.STOP, f"{cause}, and micro-batches cannot be smaller."
        )
        raise
    now = fitting.plan.micro_batch_size
    metric_logger.anomaly(
        Anomaly.OUT_OF_MEMORY,
        Action.REDUCE_BATCH_SIZE,
        f"{cause}: it is done again with micro-batches of {now} samples instead of {before}.",
    )


def collect_frozen() -> None:
    """Collect garbage among all objects, including those that were frozen before the loop."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def release(device: torch.device) -> None:
    """Return the memory of a failed pass to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
