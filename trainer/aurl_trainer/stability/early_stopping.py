"""Early stopping (Prechelt 1998): training stops once the validation loss stops improving."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from aurl_trainer.schema import Config
from aurl_trainer.stability.anomaly import Action, Anomaly
from aurl_trainer.stability.detector import EvaluationDetector
from aurl_trainer.stability.finding import EvaluationLosses, Finding, is_better


class EarlyStoppingConfig(Config):
    """End the job as succeeded once the validation loss stops improving."""

    patience: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Consecutive evaluations without a new best before training stops. 0: off."""
    min_delta: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Smallest improvement of the validation loss that counts as a new best, in nats per token."""
    restore_best: bool = True
    """Finish with the weights of the best evaluation instead of the last ones."""

    def _faults(self) -> Iterator[str]:
        if self.patience == 0:
            yield from self.unused("patience 0", "min_delta", "restore_best")


@dataclass
class EarlyStopping(EvaluationDetector):
    """Counts evaluations since the best one."""

    STATE = ("best", "best_step", "worse")

    config: EarlyStoppingConfig
    best: float | None = None
    best_step: int = 0
    worse: int = 0

    def observe(self, evaluation: EvaluationLosses) -> Finding | None:
        """Take the next evaluation; a loss that is not finite is not an improvement."""
        if is_better(evaluation.loss, self.best, self.config.min_delta):
            self.best, self.best_step, self.worse = evaluation.loss, evaluation.step, 0
            return None
        self.worse += 1
        if not self.config.patience or self.worse < self.config.patience:
            return None
        best = (
            f"its best was {self.best:.4g} at step {self.best_step}"
            if self.best_step
            else "it was never finite"
        )
        return Finding(
            Anomaly.LOSS_PLATEAU,
            Action.STOP_EARLY,
            f"The validation loss has not improved for {self.worse} evaluation(s): {best}.",
        )
