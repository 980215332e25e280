"""Detectors of speed: fewer tokens per second, waiting for data. Pure.

Their inputs come from the clock and differ from run to run. So they only warn, and checkpoints do not keep
their state.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from aurl_trainer.metrics import StepMetrics
from aurl_trainer.stability.anomaly import Action, Anomaly
from aurl_trainer.stability.config import DataStarvationConfig, ThroughputDegradationConfig
from aurl_trainer.stability.detector import IntervalDetector
from aurl_trainer.stability.finding import Finding


@dataclass
class ThroughputDegradation(IntervalDetector):
    """Tokens per second are below a share of the recent median, several times in a row."""

    config: ThroughputDegradationConfig
    window: list[float] = field(default_factory=list)
    slow: int = 0
    sequence_length: int = 0

    def observe(self, metrics: StepMetrics) -> Finding | None:
        """Take the next log interval; another sequence length has another speed."""
        if metrics.sequence_length != self.sequence_length:
            self.sequence_length, self.slow = metrics.sequence_length, 0
            self.window.clear()
        config, speed, window = self.config, metrics.tokens_per_second, self.window
        if not config.intervals:
            return None
        usual = sorted(window)[len(window) // 2] if len(window) >= config.window // 2 else 0.0
        if speed >= config.share * usual:
            self.slow = 0
            window.append(speed)
            del window[: -config.window]
            return None
        self.slow += 1
        if self.slow < config.intervals:
            return None
        self.slow = 0
        window.clear()
        return Finding(
            Anomaly.THROUGHPUT_DEGRADATION,
            Action.WARN,
            f"Training has slowed down from {usual:.0f} to {speed:.0f} tokens per second.",
        )


@dataclass
class DataStarvation(IntervalDetector):
    """Too much time is spent waiting for data, several log intervals in a row."""

    config: DataStarvationConfig
    starved: int = 0

    def observe(self, metrics: StepMetrics) -> Finding | None:
        """Take the next log interval; a streak is reported once."""
        self.starved = self.starved + 1 if metrics.data_wait_share > self.config.share else 0
        if not self.config.intervals or self.starved != self.config.intervals:
            return None
        return Finding(
            Anomaly.DATA_STARVATION,
            Action.WARN,
            f"Steps spend {metrics.data_wait_share:.0%} of their time waiting for data: check the speed of "
            "the volume.",
        )
