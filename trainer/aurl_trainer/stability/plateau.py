"""The plateau schedule: the learning rate falls by a factor when the validation loss stops improving.

Unlike the other schedules it depends on the run and not only on the step; its state is in every checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

from aurl_trainer.stability.anomaly import Action, Anomaly
from aurl_trainer.stability.detector import EvaluationDetector
from aurl_trainer.stability.finding import EvaluationLosses, Finding, is_better


@dataclass
class PlateauSchedule(EvaluationDetector):
    """Counts evaluations since the best one, and asks for a lower learning rate after `patience` of them."""

    STATE = ("best", "worse")

    patience: int
    """0: off."""
    warmup_steps: int = 0
    min_delta: float = 0.0
    factor: float = 0.5
    floor: float = 0.0
    """The lowest share of the learning rate."""
    best: float | None = None
    worse: int = 0

    def observe(self, evaluation: EvaluationLosses) -> Finding | None:
        """Take the next evaluation; a loss that is not finite is not an improvement."""
        if not self.patience or evaluation.step <= self.warmup_steps:
            return None
        if is_better(evaluation.loss, self.best, self.min_delta):
            self.best, self.worse = evaluation.loss, 0
            return None
        self.worse += 1
        if self.worse < self.patience:
            return None
        worse, self.worse = self.worse, 0
        return Finding(
            Anomaly.LOSS_PLATEAU,
            Action.REDUCE_LEARNING_RATE,
            f"The validation loss {evaluation.loss:.4g} has not improved for {worse} evaluation(s).",
            factor=self.factor,
            floor=self.floor,
        )
