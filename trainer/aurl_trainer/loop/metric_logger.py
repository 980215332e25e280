"""Reports of the training loop: metrics, checkpoints and anomalies, to log, TensorBoard and launcher."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from aurl_trainer.checkpoint.state import Progress
from aurl_trainer.checkpoint.writer import SaveResult
from aurl_trainer.config import TrainingConfig
from aurl_trainer.loop.tensorboard import TensorBoard
from aurl_trainer.metrics import SkipReason, StepMetrics, ValidationMetrics, log_values, scalars
from aurl_trainer.model.utilisation import Utilisation
from aurl_trainer.monitor.report import RankReporter
from aurl_trainer.optim.guard import GuardStatistics
from aurl_trainer.stability.anomaly import SKIPPED, Action, Anomaly

log = logging.getLogger("aurl_trainer.train")

NO_TERMS: Mapping[str, float] = MappingProxyType({})


class Stopwatch:
    """Measures laps without pauses."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time inside from the lap."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._started += time.perf_counter() - began

    def lap(self) -> float:
        """Return the seconds of this lap and start the next."""
        now = time.perf_counter()
        seconds, self._started = now - self._started, now
        return seconds


class MetricLogger:
    """Reports metrics, checkpoints and anomalies; other ranks than the first only update their snapshots."""

    def __init__(
        self,
        config: TrainingConfig,
        progress: Progress,
        reporter: RankReporter,
        board: TensorBoard,
        *,
        first: bool,
        utilisation: Utilisation,
    ) -> None:
        self.config, self.progress, self.reporter, self.board = config, progress, reporter, board
        self.first, self.utilisation = first, utilisation
        self.interval = Stopwatch()
        self._waited = reporter.waited
        self._logged_step = progress.step

    def steps(
        self,
        loss_sum: float,
        rate: float,
        guard: GuardStatistics,
        length: int,
        term_sums: Mapping[str, float] = NO_TERMS,
        components: Mapping[str, float] = NO_TERMS,
    ) -> StepMetrics:
        """Report the steps since the last call, and return their metrics for the detectors.

        `loss_sum` is in nats, over all ranks and all of these steps; `length` is the last step's tokens per
        sample; `term_sums` are the extra losses by name, summed as the loss is; `components` are the means of
        the terms of `training.losses`.
        """
        progress, config, step = self.progress, self.config, self.progress.step
        seconds, valid_tokens = self.interval.lap(), max(progress.interval_tokens, 1)
        progress.loss = loss_sum / valid_tokens
        if progress.initial_loss is None and math.isfinite(progress.loss):
            progress.initial_loss = progress.loss
        per_step = config.tokens_per_step
        tokens, samples = progress.interval_steps * per_step, progress.interval_samples
        progress.interval_tokens = progress.interval_steps = progress.interval_samples = 0
        waited = self.reporter.waited
        metrics = StepMetrics(
            step=step,
            loss=progress.loss,
            initial_loss=progress.loss if progress.initial_loss is None else progress.initial_loss,
            learning_rate=rate,
            gradient_norm=guard.norm,
            tokens_per_second=tokens / seconds,
            samples_per_second=samples / seconds,
            step_seconds=seconds / max(step - self._logged_step, 1),
            sequence_length=length,
            batch_size=per_step // length,
            tokens=tokens,
            samples=samples,
            skips=guard.consecutive,
            skip_reason=self._skips(guard),
            data_wait_share=(waited - self._waited) / seconds,
            mfu=self.utilisation.mfu(tokens / seconds, length),
            components=dict(components),
            terms={name: total / valid_tokens for name, total in term_sums.items()},
        )
        self._waited, self._logged_step = waited, step
        self.reporter.log_step(metrics)
        self._show("step", metrics)
        return metrics

    def rolled_back(self, progress: Progress, lost_steps: int) -> None:
        """Continue from `progress`, after `lost_steps` optimizer steps were discarded."""
        self.progress, self._logged_step = progress, progress.step
        self.board.rewind(progress.step)
        self.reporter.rolled_back(progress.step, lost_steps)
        self.interval.lap()

    def critic(self, guard: GuardStatistics) -> None:
        """Report the critic's updates that were skipped since the last call; they never cause a rollback."""
        for reason, count in self._new_skips(guard, "critic_").items():
            self._skipped(reason, f"{count} update(s) of the critic", count, guard.last_rejected)

    def _skips(self, guard: GuardStatistics) -> SkipReason:
        """Report updates that were skipped since the last call, and return why most of them were."""
        new = self._new_skips(guard)
        for reason, count in new.items():
            self.reporter.skipped(reason, count)
            self._skipped(reason, f"{count} update(s)", count, guard.last_rejected)
        return "spike" if new.get("spike", 0) > new.get("nonfinite", 0) else "nonfinite"

    def _new_skips(self, guard: GuardStatistics, prefix: str = "") -> dict[SkipReason, int]:
        """Return how many updates a guard has skipped since the last call, for the reasons of any."""
        totals: dict[SkipReason, int] = {"nonfinite": guard.nonfinite, "spike": guard.spikes}
        reported = self.progress.skips_reported
        new = {reason: total - reported.get(prefix + reason, 0) for reason, total in totals.items()}
        new = {reason: count for reason, count in new.items() if count > 0}
        reported |= {prefix + reason: totals[reason] for reason in new}
        return new

    def _skipped(self, reason: SkipReason, updates: str, count: int, last: int) -> None:
        text = f"Skipped {updates}: {reason} gradient, last at step {last}."
        self.anomaly(SKIPPED[reason], Action.SKIP, text, count=count)

    def anomaly(self, kind: Anomaly, action: Action, message: str, *, count: int = 1) -> None:
        """Report an anomaly (`count` times) and the action taken: counter, and on rank 0 log line and event.

        `message` is one sentence with the observation and the action.
        """
        self.reporter.anomaly(kind, action, count)
        if self.first:
            self.reporter.event(kind, self.progress.step, message)
            log.warning(
                "anomaly",
                extra={
                    "step": self.progress.step,
                    "kind": str(kind),
                    "action": str(action),
                    "count": count,
                    "reason": message,
                },
            )

    def validation(self, loss: float, ema_loss: float | None) -> None:
        """Report the loss on the held-out split, of the weights and of their average (nats per token)."""
        progress = self.progress
        progress.validation_loss, progress.ema_validation_loss = loss, ema_loss
        progress.validation_step = progress.step
        metrics = ValidationMetrics(loss, ema_loss)
        self.reporter.validation(progress.step, metrics)
        self._show("evaluation", metrics)

    def metrics(self, values: dict[str, float]) -> None:
        """Report evaluation metrics, including those of user hooks."""
        if values:
            self.reporter.evaluation(values)
            self.board.scalars(
                self.progress.step, {f"evaluation/{name}": value for name, value in values.items()}
            )
            self._info("metrics", values)

    def saves(self, results: list[SaveResult]) -> None:
        """Report checkpoints that were committed or failed to save."""
        for result in results:
            if result.checkpoint is not None:
                self.reporter.checkpoint(result.step, result.checkpoint.path, result.seconds)
                log.info("checkpoint", extra={"step": result.step, "seconds": round(result.seconds, 3)})
            else:
                self.reporter.checkpoint(result.step, "", result.seconds, result="failed")
                text = f"The checkpoint could not be saved; training continues: {result.error}."
                self.reporter.event("CheckpointFailed", result.step, text)
                log.error("checkpoint failed", extra={"step": result.step, "reason": str(result.error)})

    def _show(self, event: str, metrics: StepMetrics | ValidationMetrics) -> None:
        self.board.scalars(self.progress.step, scalars(metrics))
        self._info(event, log_values(metrics))

    def _info(self, event: str, values: dict[str, float]) -> None:
        if self.first:
            log.info(event, extra={"step": self.progress.step, **values})
