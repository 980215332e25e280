"""Roll-back to the last healthy checkpoint after a bad stretch, or to the best one at an early stop.

A roll-back from step D to step T skips the data of steps T + 1 to D, and as much again for each earlier
roll-back: the token counter in the progress of T is moved forward, and everything later is a function of the
progress as always. Checkpoints after T are deleted, newest first. So a run that is killed at any moment of
this either restarts from a checkpoint before D, reaches D again and does the same, or restarts from one after
the roll-back, which records it.
"""

from __future__ import annotations

from aurl_trainer.checkpoint.manager import CheckpointManager
from aurl_trainer.checkpoint.state import Progress
from aurl_trainer.checkpoint.writer import CheckpointWriter
from aurl_trainer.distributed.runtime import Distributed
from aurl_trainer.loop.metric_logger import MetricLogger
from aurl_trainer.loop.resume import TrainingState, report_damage

NONE = -1
"""The step that rank 0 broadcasts if it found no checkpoint."""


class Rollback:
    """Restores a checkpoint, chosen by rank 0, on all ranks. Every rank must make the same calls."""

    def __init__(
        self,
        state: TrainingState,
        manager: CheckpointManager,
        writer: CheckpointWriter | None,
        distributed: Distributed,
        metric_logger: MetricLogger,
    ) -> None:
        self.state, self.manager, self.writer, self.distributed, self.metric_logger = (
            state,
            manager,
            writer,
            distributed,
            metric_logger,
        )

    def to_healthy(self, progress: Progress, last_healthy_step: int, rate_factor: float) -> Progress | None:
        """Restore the newest healthy checkpoint up to `last_healthy_step` and return the progress from there.

        `progress` is where the bad stretch was noticed; `rate_factor` scales the learning rate from now on.
        Returns None, and changes nothing, if there is no such checkpoint.
        """
        target = NONE
        if self.writer is not None:
            self.metric_logger.saves(self.writer.abandon())
            checkpoint, complaints = self.manager.latest(healthy_until=last_healthy_step)
            instead = "nowhere" if checkpoint is None else f"from step {checkpoint.step}"
            for complaint in complaints:
                report_damage(complaint, instead, self.manager, self.metric_logger.reporter)
            if checkpoint is not None:
                target = checkpoint.step
                self.manager.delete_after(target)
        target = self.distributed.from_first(target)
        if target == NONE:
            return None
        checkpoint = self.manager.at(target)
        restored = self.state.restore(checkpoint)
        self.metric_logger.reporter.restored(target, checkpoint.path, checkpoint.saved_at)
        left_out = (progress.tokens - restored.tokens) * (1 + progress.rollbacks)
        restored.leave_out_data(restored.tokens + left_out)
        restored.rollbacks = progress.rollbacks + 1
        restored.learning_rate_factor = rate_factor
        return restored

    def finish_saves(self) -> None:
        """Wait for the save in progress: the job is about to fail, and this may be its last one."""
        if self.writer is not None:
            self.metric_logger.saves(self.writer.abandon())

    def to_best(self, step: int) -> Progress | None:
        """Restore the checkpoint of `step` and return its progress; None if it does not exist."""
        exists = 0
        if self.writer is not None:
            self.metric_logger.saves(self.writer.wait())
            exists = int(any(checkpoint.step == step for checkpoint in self.manager.all()))
        if not self.distributed.from_first(exists):
            return None
        return self.state.restore(self.manager.at(step))
