"""What happens when a pass does not fit: the step is done again by all ranks, in smaller micro-batches."""

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


class Attempt:
    """The passes of a step as a context: running out of memory ends the attempt and not the job.

    Only allocations of the passes themselves are caught: before them nothing was added up, and after them the
    optimizer has begun to change weights. Where the passes themselves wait for other ranks, as they do when
    the model is sharded, nothing is caught: the job starts again with smaller micro-batches.
    """

    def __init__(self, *, recoverable: bool, snapshot: ExhaustionSnapshot | None) -> None:
        self.recoverable, self.snapshot = recoverable, snapshot
        self.step, self.failed = 0, False

    def begin(self, step: int) -> Attempt:
        """Return this context for `step`."""
        self.step, self.failed = step, False
        return self

    def __enter__(self) -> None:
        """Enter."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | Literal[False]:
        """Take note of an allocation that failed, and let everything else pass."""
        if error is None or not isinstance(error, RuntimeError | MemoryError) or not is_out_of_memory(error):
            return False
        if self.snapshot is not None:
            self.snapshot.write(self.step, str(error))
        if not self.recoverable:
            return False
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        log.warning("out of memory", extra={"step": self.step, "reason": reason})
        self.failed = True
        return True


def make_room(fitting: Fitting, metric_logger: MetricLogger, step: int, failures: int) -> None:
    """Choose smaller micro-batches after `failures` ranks ran out of memory in `step`, and say so.

    Raises OutOfMemoryError when they are as small as they may be.
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
    """Collect garbage among all objects, those that were set aside before the loop too."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def release(device: torch.device) -> None:
    """Give the memory of a failed pass, which nothing refers to any more, back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
