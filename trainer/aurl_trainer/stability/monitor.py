"""All detectors of a run: they get log intervals and evaluations, and return findings. Pure.

Findings that change training depend only on losses and gradients, and the state behind them is in every
checkpoint: a resumed run finds what the original run would have found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from aurl_trainer.metrics import StepMetrics
from aurl_trainer.stability.anomaly import Action
from aurl_trainer.stability.config import StabilityConfig
from aurl_trainer.stability.detect_fit import Overfitting, Underfitting
from aurl_trainer.stability.detect_gradient import GradientVanishing, SkipStreak
from aurl_trainer.stability.detect_loss import LossDivergence, LossOscillation, LossPlateau, LossSpike
from aurl_trainer.stability.detect_speed import DataStarvation, ThroughputDegradation
from aurl_trainer.stability.detector import Detector, EvaluationDetector, IntervalDetector
from aurl_trainer.stability.early_stopping import EarlyStopping
from aurl_trainer.stability.finding import EvaluationLosses, Finding
from aurl_trainer.stability.plateau import PlateauSchedule

SEVERITY = (
    Action.WARN,
    Action.REDUCE_LEARNING_RATE,
    Action.STOP_EARLY,
    Action.ROLLBACK,
    Action.STOP,
)
"""The actions that detectors ask for, mildest first."""


class StabilityMonitor:
    """The detectors, and the last healthy step."""

    def __init__(
        self,
        config: StabilityConfig,
        total_steps: int,
        early_stopping: EarlyStopping,
        plateau: PlateauSchedule,
    ) -> None:
        self.spike = LossSpike(config.loss_spike)
        self.divergence = LossDivergence(config.loss_divergence)
        self.early_stopping = early_stopping
        self._intervals: dict[str, IntervalDetector] = {
            "skipStreak": SkipStreak(config.max_consecutive_skips),
            "lossSpike": self.spike,
            "lossDivergence": self.divergence,
            "lossOscillation": LossOscillation(config.loss_oscillation),
            "lossPlateau": LossPlateau(config.loss_plateau),
            "gradientVanishing": GradientVanishing(config.gradient_vanishing),
            "underfitting": Underfitting(config.underfitting, total_steps),
        }
        self._evaluations: dict[str, EvaluationDetector] = {
            "overfitting": Overfitting(config.overfitting),
            "earlyStopping": early_stopping,
            "plateauSchedule": plateau,
        }
        self._clocked: tuple[IntervalDetector, ...] = (
            ThroughputDegradation(config.throughput_degradation),
            DataStarvation(config.data_starvation),
        )
        self._detectors: dict[str, Detector] = {**self._intervals, **self._evaluations}
        self.last_healthy_step = 0
        """Last step of the newest log interval without a sign of a bad stretch."""

    def interval(self, metrics: StepMetrics) -> list[Finding]:
        """Take the next log interval; return what is wrong."""
        found = [detector.observe(metrics) for detector in (*self._intervals.values(), *self._clocked)]
        findings = [finding for finding in found if finding is not None]
        suspicious = self.spike.above or self.divergence.above or metrics.skips
        acts = any(finding.action is not Action.WARN for finding in findings)
        if not suspicious and not acts and math.isfinite(metrics.loss):
            self.last_healthy_step = metrics.step
        return findings

    def evaluation(self, evaluation: EvaluationLosses) -> list[Finding]:
        """Take the next evaluation; return what is wrong."""
        found = [detector.observe(evaluation) for detector in self._evaluations.values()]
        return [finding for finding in found if finding is not None]

    @property
    def calm(self) -> bool:
        """True if no bad stretch of the loss has started; a checkpoint saved now is healthy."""
        return not (self.spike.above or self.divergence.above)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all detectors that can change training, as JSON values."""
        state = {name: detector.state_dict() for name, detector in self._detectors.items()}
        return {"lastHealthyStep": self.last_healthy_step} | state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; a detector that it lacks stays as it is."""
        self.last_healthy_step = state.get("lastHealthyStep", 0)
        for name, detector in self._detectors.items():
            detector.load_state_dict(state.get(name, {}))
