"""Records of step metrics for tests."""

from __future__ import annotations

from typing import Any

from aurl_trainer.metrics import StepMetrics

DEFAULTS: dict[str, Any] = {
    "step": 0, "loss": 2.0, "initial_loss": 6.0, "learning_rate": 1e-3, "gradient_norm": 1.0,
    "tokens_per_second": 1000.0, "samples_per_second": 10.0, "step_seconds": 0.5, "sequence_length": 64,
    "batch_size": 8,
}  # fmt: skip


def step_metrics(**values: Any) -> StepMetrics:
    """Return the metrics of a log interval, with `values` instead of plausible ones."""
    return StepMetrics(**DEFAULTS | values)
