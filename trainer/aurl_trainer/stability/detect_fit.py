"""Detectors of underfitting and overfitting. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from aurl_trainer.metrics import StepMetrics
from aurl_trainer.stability.anomaly import Action, Anomaly
from aurl_trainer.stability.config import OverfittingConfig, UnderfittingConfig
from aurl_trainer.stability.detector import EvaluationDetector, IntervalDetector
from aurl_trainer.stability.finding import EvaluationLosses, Finding

LEAST_INTERVALS = 20
"""Log intervals before a job can count as underfitted."""


@dataclass
class Underfitting(IntervalDetector):
    """Loss > (1 − min fall) · first loss; checked once, after a share of the job's steps."""

    STATE = ("intervals", "checked")

    config: UnderfittingConfig
    total_steps: int
    intervals: int = 0
    checked: bool = False

    def observe(self, metrics: StepMetrics) -> Finding | None:
        """Take the next log interval; the first few do not count."""
        self.intervals += 1
        early = metrics.step < self.config.after * self.total_steps or self.intervals < LEAST_INTERVALS
        if self.checked or not self.config.after or early:
            return None
        self.checked = True
        if not metrics.loss > (1 - self.config.min_fall) * metrics.initial_loss:
            return None
        return Finding(
            Anomaly.UNDERFITTING,
            Action(self.config.action),
            f"After {metrics.step} of {self.total_steps} steps the loss is {metrics.loss:.4g}, hardly below "
            f"the {metrics.initial_loss:.4g} of the first: try a higher learning rate or a larger model.",
        )


@dataclass
class Overfitting(EvaluationDetector):
    """The validation loss is above its lowest, and the training loss below what it was then."""

    STATE = ("lowest", "training_loss_then", "worse")

    config: OverfittingConfig
    lowest: float | None = None
    training_loss_then: float = 0.0
    worse: int = 0

    def observe(self, evaluation: EvaluationLosses) -> Finding | None:
        """Take the next evaluation; the count restarts after a finding."""
        if not math.isfinite(evaluation.loss):
            return None
        if self.lowest is None or evaluation.loss < self.lowest:
            self.lowest, self.training_loss_then, self.worse = evaluation.loss, evaluation.training_loss, 0
            return None
        apart = evaluation.loss > self.lowest + self.config.rise * abs(self.lowest)
        self.worse = self.worse + 1 if apart and evaluation.training_loss < self.training_loss_then else 0
        if not self.config.evaluations or self.worse < self.config.evaluations:
            return None
        self.worse = 0
        return Finding(
            Anomaly.OVERFITTING,
            Action(self.config.action),
            f"The validation loss has risen from {self.lowest:.4g} to {evaluation.loss:.4g} while the "
            f"training loss fell to {evaluation.training_loss:.4g}.",
        )
