"""The plateau schedule: the learning rate falls by a factor when the validation loss stops improving.

Unlike the other schedules it depends on the run and not on the step alone; its state is in every checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

from aurl_trainer.optim.config import ScheduleConfig
from aurl_trainer.stability.anomaly import Action, Anomaly
from aurl_trainer.stability.finding import Evaluation, Finding, is_better


@dataclass
class PlateauSchedule:
    """Counts evaluations since the best one and asks for a lower learning rate."""

    config: ScheduleConfig
    best: float | None = None
    worse: int = 0

    def observe(self, evaluation: Evaluation) -> Finding | None:
        """Take the next evaluation; a loss that is not finite is no improvement."""
        config = self.config
        if config.kind != "plateau" or evaluation.step <= config.warmup_steps:
            return None
        if is_better(evaluation.loss, self.best, config.min_delta):
            self.best, self.worse = evaluation.loss, 0
            return None
        self.worse += 1
        if self.worse < config.patience:
            return None
        worse, self.worse = self.worse, 0
        return Finding(
            Anomaly.LOSS_PLATEAU,
            Action.REDUCE_LEARNING_RATE,
            f"The validation loss {evaluation.loss:.4g} has not improved for {worse} evaluation(s).",
            factor=config.factor,
            floor=config.final_ratio,
        )
