"""All detectors of a run: fed with log intervals and evaluations, they say what is wrong. Pure.

What decides about training depends on nothing but losses and gradients, and its state is in every
checkpoint: a resumed run finds what the run that it continues would have found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

from aurl_trainer.config import TrainingConfig
from aurl_trainer.metrics import StepMetrics
from aurl_trainer.stability.anomaly import Action
from aurl_trainer.stability.detect_fit import Overfitting, Underfitting
from aurl_trainer.stability.detect_gradient import GradientVanishing, SkipStreak
from aurl_trainer.stability.detect_loss import LossDivergence, LossOscillation, LossPlateau, LossSpike
from aurl_trainer.stability.detect_speed import DataStarvation, ThroughputDegradation
from aurl_trainer.stability.early_stopping import EarlyStopping
from aurl_trainer.stability.finding import Evaluation, Finding
from aurl_trainer.stability.plateau import PlateauSchedule

SEVERITY = (
    Action.WARN,
    Action.REDUCE_LEARNING_RATE,
    Action.STOP_EARLY,
    Action.ROLLBACK,
    Action.STOP,
)
"""The actions that detectors ask for, the mildest first."""


class IntervalDetector(Protocol):
    """Looks at one log interval after the other."""

    def observe(self, metrics: StepMetrics) -> Finding | None:
        """Take the next log interval and say what is wrong, if anything."""


class EvaluationDetector(Protocol):
    """Looks at one evaluation after the other."""

    def observe(self, evaluation: Evaluation) -> Finding | None:
        """Take the next evaluation and say what is wrong, if anything."""


class StabilityMonitor:
    """The detectors, and the last step at which all was well."""

    def __init__(self, config: TrainingConfig) -> None:
        stability = config.stability
        self.spike = LossSpike(stability.loss_spike)
        self.divergence = LossDivergence(stability.loss_divergence)
        self.early_stopping = EarlyStopping(config.early_stopping)
        self._intervals: dict[str, IntervalDetector] = {
            "skipStreak": SkipStreak(stability.max_consecutive_skips),
            "lossSpike": self.spike,
            "lossDivergence": self.divergence,
            "lossOscillation": LossOscillation(stability.loss_oscillation),
            "lossPlateau": LossPlateau(stability.loss_plateau),
            "gradientVanishing": GradientVanishing(stability.gradient_vanishing),
            "underfitting": Underfitting(stability.underfitting, config.steps),
        }
        self._evaluations: dict[str, EvaluationDetector] = {
            "overfitting": Overfitting(stability.overfitting),
            "earlyStopping": self.early_stopping,
            "plateauSchedule": PlateauSchedule(config.schedule),
        }
        self._clocked: tuple[IntervalDetector, ...] = (
            ThroughputDegradation(stability.throughput_degradation),
            DataStarvation(stability.data_starvation),
        )
        self.last_healthy_step = 0
        """Last step of the newest log interval at which nothing pointed to a bad stretch."""

    def interval(self, metrics: StepMetrics) -> list[Finding]:
        """Take the next log interval; return what is wrong."""
        found = [detector.observe(metrics) for detector in (*self._intervals.values(), *self._clocked)]
        findings = [finding for finding in found if finding is not None]
        suspicious = self.spike.above or self.divergence.above or metrics.skips
        acts = any(finding.action is not Action.WARN for finding in findings)
        if not suspicious and not acts and math.isfinite(metrics.loss):
            self.last_healthy_step = metrics.step
        return findings

    def evaluation(self, evaluation: Evaluation) -> list[Finding]:
        """Take the next evaluation; return what is wrong."""
        found = [detector.observe(evaluation) for detector in self._evaluations.values()]
        return [finding for finding in found if finding is not None]

    @property
    def calm(self) -> bool:
        """Whether no bad stretch of the loss has begun; a checkpoint that is saved now is healthy."""
        return not (self.spike.above or self.divergence.above)

    def state(self) -> dict[str, Any]:
        """Return the state of what decides about training, as JSON values."""
        return {"lastHealthyStep": self.last_healthy_step} | {
            name: {key: value for key, value in vars(detector).items() if key in _kept(detector)}
            for name, detector in self._saved().items()
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` returned; a detector that it does not hold begins anew."""
        self.last_healthy_step = state.get("lastHealthyStep", 0)
        for name, detector in self._saved().items():
            for key in _kept(detector) & state.get(name, {}).keys():
                value = state[name][key]
                setattr(detector, key, list(value) if isinstance(value, list) else value)

    def _saved(self) -> dict[str, IntervalDetector | EvaluationDetector]:
        return {**self._intervals, **self._evaluations}


def _kept(detector: IntervalDetector | EvaluationDetector) -> set[str]:
    """The fields of a detector that change while it runs."""
    return vars(detector).keys() - {"config", "limit", "total_steps"}
