"""Detectors of gradients: many skipped updates in a row, or too short to learn from. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from aurl_trainer.metrics import StepMetrics
from aurl_trainer.stability.anomaly import SKIPPED, Action, Anomaly
from aurl_trainer.stability.config import GradientVanishingConfig
from aurl_trainer.stability.detector import IntervalDetector
from aurl_trainer.stability.finding import Finding


@dataclass
class SkipStreak(IntervalDetector):
    """The guard has skipped `limit` updates in a row."""

    limit: int

    def observe(self, metrics: StepMetrics) -> Finding | None:
        """Take the next log interval."""
        if metrics.skips < self.limit:
            return None
        kind = SKIPPED[metrics.skip_reason]
        cause = "not finite" if kind is Anomaly.NON_FINITE else "far too long"
        return Finding(
            kind,
            Action.ROLLBACK,
            f"The last {metrics.skips} updates up to step {metrics.step} were skipped because their "
            f"gradients were {cause} (stability.maxConsecutiveSkips is {self.limit}).",
        )


@dataclass
class GradientVanishing(IntervalDetector):
    """The gradient norm is below a bound for several log intervals in a row."""

    STATE = ("below",)

    config: GradientVanishingConfig
    below: int = 0

    def observe(self, metrics: StepMetrics) -> Finding | None:
        """Take the next log interval; a streak is reported once."""
        self.below = self.below + 1 if metrics.gradient_norm < self.config.norm else 0
        if not self.config.intervals or self.below != self.config.intervals:
            return None
        return Finding(
            Anomaly.GRADIENT_VANISHING,
            Action(self.config.action),
            f"The gradient norm has been below {self.config.norm:g} for {self.below} log intervals "
            f"and is {metrics.gradient_norm:.3g}.",
        )
