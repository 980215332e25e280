"""Detectors of the training loss: above its band, diverged, oscillating, on a plateau. Pure.

A loss that is not finite is ignored here: its step was skipped, and the guard counts those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

from aurl_trainer.metrics import StepMetrics
from aurl_trainer.stability.anomaly import Action, Anomaly
from aurl_trainer.stability.config import (
    LossDivergenceConfig,
    LossOscillationConfig,
    LossPlateauConfig,
    LossSpikeConfig,
)
from aurl_trainer.stability.detector import IntervalDetector
from aurl_trainer.stability.finding import Finding

LEAST_DEVIATION = 0.01
"""Smallest standard deviation of a band, as a share of its mean."""

LEAST_WINDOW = 4
"""Smallest window, in log intervals."""

SMOOTHED = 5
"""Log intervals over which the loss is averaged to find its lowest value."""


@dataclass
class LossSpike(IntervalDetector):
    """Loss > mean + sigma · deviation of the intervals inside the band, several times in a row."""

    STATE = ("window", "above", "sequence_length")

    config: LossSpikeConfig
    window: list[float] = field(default_factory=list)
    above: int = 0
    sequence_length: int = 0

    def observe(self, metrics: StepMetrics) -> Finding | None:
        """Take the next log interval; another sequence length has another loss and starts a new band."""
        if metrics.sequence_length != self.sequence_length:
            self.sequence_length, self.above = metrics.sequence_length, 0
            self.window.clear()
        config, loss = self.config, metrics.loss
        if not config.intervals or not math.isfinite(loss):
            return None
        limit = self._limit()
        if loss <= limit:
            self.above = 0
            self.window.append(loss)
            del self.window[: -config.window]
            return None
        self.above += 1
        text = (
            f"The loss {loss:.4g} is above its band, which ends at {limit:.4g}, "
            f"for {self.above} log interval(s)."
        )
        if self.above < config.intervals:
            return Finding(Anomaly.LOSS_SPIKE, Action.WARN, text) if self.above == 1 else None
        self.above = 0
        self.window.clear()
        return Finding(Anomaly.LOSS_SPIKE, Action(config.action), text)

    def _limit(self) -> float:
        count = len(self.window)
        if count < self.config.window // 2:
            return math.inf
        mean = sum(self.window) / count
        variance = sum([(loss - mean) ** 2 for loss in self.window]) / (count - 1)
        return mean + self.config.sigma * max(math.sqrt(variance), LEAST_DEVIATION * abs(mean))


@dataclass
class LossDivergence(IntervalDetector):
    """Loss > lowest + max(lost share · (first loss − lowest), min rise), several times in a row.

    `lowest` is the lowest mean of SMOOTHED intervals: the lowest single one would be a matter of luck.
    """

    STATE = ("lowest", "window", "above")

    config: LossDivergenceConfig
    lowest: float | None = None
    window: list[float] = field(default_factory=list)
    above: int = 0

    def observe(self, metrics: StepMetrics) -> Finding | None:
        """Take the next log interval."""
        config, loss = self.config, metrics.loss
        if not config.intervals or not math.isfinite(loss):
            return None
        lowest = metrics.initial_loss if self.lowest is None else self.lowest
        self.window.append(loss)
        del self.window[:-SMOOTHED]
        if len(self.window) == SMOOTHED:
            lowest = self.lowest = min(lowest, sum(self.window) / SMOOTHED)
        gained = metrics.initial_loss - lowest
        if loss <= lowest + max(config.lost_share * gained, config.min_rise):
            self.above = 0
            return None
        self.above += 1
        if self.above < config.intervals:
            return None
        self.above = 0
        return Finding(
            Anomaly.LOSS_DIVERGENCE,
            Action(config.action),
            f"The loss {loss:.4g} has diverged: it was {lowest:.4g} at its lowest "
            f"and {metrics.initial_loss:.4g} at the first step.",
        )


@dataclass
class LossOscillation(IntervalDetector):
    """Three in four changes between intervals reverse the one before, by more than the loss falls overall."""

    STATE = ("window",)

    config: LossOscillationConfig
    window: list[float] = field(default_factory=list)

    def observe(self, metrics: StepMetrics) -> Finding | None:
        """Take the next log interval; the window restarts after a finding."""
        window, size = self.window, max(LEAST_WINDOW, self.config.window)
        if not self.config.window or not _append(window, metrics.loss, size):
            return None
        swings = [later - earlier for earlier, later in pairwise(window)]
        swing = sum(map(abs, swings)) / len(swings)
        mean = sum(window) / size
        if swing <= self.config.amplitude * abs(mean) or swing <= abs(_fall(window)):
            return None
        turns = sum([a * b < 0 for a, b in pairwise(swings)])
        if turns < 0.75 * (len(swings) - 1):
            return None
        window.clear()
        return Finding(
            Anomaly.LOSS_OSCILLATION,
            Action(self.config.action),
            f"The loss swings by {swing:.4g} around {mean:.4g} from one log interval to the next.",
        )


@dataclass
class LossPlateau(IntervalDetector):
    """The mean of a window's second half is hardly below that of the first."""

    STATE = ("window",)

    config: LossPlateauConfig
    window: list[float] = field(default_factory=list)

    def observe(self, metrics: StepMetrics) -> Finding | None:
        """Take the next log interval; the window restarts after a finding."""
        window, size = self.window, max(LEAST_WINDOW, self.config.window)
        if not self.config.window or not _append(window, metrics.loss, size):
            return None
        before = sum(window[: size // 2]) / (size // 2)
        if _fall(window) >= self.config.min_fall * abs(before):
            return None
        window.clear()
        return Finding(
            Anomaly.LOSS_PLATEAU,
            Action(self.config.action),
            f"The training loss {metrics.loss:.4g} has not fallen over {size} log intervals.",
        )


def _append(window: list[float], loss: float, size: int) -> bool:
    """Append a finite loss to the window of the newest `size`; True if the window is full."""
    if not math.isfinite(loss):
        return False
    window.append(loss)
    del window[:-size]
    return len(window) == size


def _fall(window: list[float]) -> float:
    """Return the mean of the first half minus that of the second."""
    half = len(window) // 2
    return sum(window[:half]) / half - sum(window[half:]) / (len(window) - half)
