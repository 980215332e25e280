"""Acts on the findings of the detectors, within the configured budgets; the same on all ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from aurl_trainer.checkpoint.state import Progress
from aurl_trainer.config import TrainingConfig
from aurl_trainer.distributed.runtime import Distributed
from aurl_trainer.errors import DivergenceError
from aurl_trainer.loop.metric_logger import MetricLogger
from aurl_trainer.loop.rollback import Rollback
from aurl_trainer.metrics import StepMetrics
from aurl_trainer.stability.anomaly import ACTIONS, Action
from aurl_trainer.stability.early_stopping import EarlyStopping
from aurl_trainer.stability.finding import EvaluationLosses, Finding
from aurl_trainer.stability.monitor import SEVERITY, StabilityMonitor
from aurl_trainer.stability.plateau import PlateauSchedule

CURE = "lower optimizer.learningRate or look at the data"


class Supervisor:
    """Collects the findings of a step and acts on the most severe one."""

    def __init__(
        self,
        config: TrainingConfig,
        progress: Progress,
        rollback: Rollback,
        distributed: Distributed,
        metric_logger: MetricLogger,
    ) -> None:
        self.config, self.rollback = config, rollback
        self.distributed, self.metric_logger = distributed, metric_logger
        self.monitor = stability_monitor(config)
        self.monitor.load_state_dict(progress.stability)
        self.pending = False
        """True if there is something new, the same on all ranks; then `act` must be called."""
        self._findings: list[Finding] = []

    def interval(self, metrics: StepMetrics) -> None:
        """Look at a log interval."""
        self._findings += self.monitor.interval(metrics)
        self.pending = True

    def evaluation(self, progress: Progress) -> None:
        """Look at the newest evaluation: of the average of the weights if there is one."""
        averaged = progress.ema_validation_loss
        loss = averaged if averaged is not None else progress.validation_loss
        if loss is None:
            return
        training_loss = progress.loss if progress.loss is not None else loss
        self._findings += self.monitor.evaluation(EvaluationLosses(progress.step, loss, training_loss))
        self.pending = True

    def wants_checkpoint(self, step: int) -> bool:
        """True if `step` is the best so far and its weights may be restored at an early stop."""
        return self._restores_best and step == self.monitor.early_stopping.best_step

    def record(self, progress: Progress, consecutive_skips: int) -> None:
        """Set what a checkpoint records in `progress`: detectors' state, health, and the best step."""
        progress.stability = self.monitor.state_dict()
        progress.healthy = self.monitor.calm and consecutive_skips == 0
        progress.last_healthy_step = self.monitor.last_healthy_step
        progress.best_step = self.monitor.early_stopping.best_step if self._restores_best else 0

    def act(self, progress: Progress) -> Progress:
        """Act on the findings; return the progress to continue from, which is another after a roll-back.

        Raises DivergenceError if the job must stop.
        """
        findings, self._findings, self.pending = self._findings, [], False
        for warning in findings:
            if warning.action is Action.WARN:
                self._report(warning, "")
        finding = self._agree([finding for finding in findings if finding.action is not Action.WARN])
        if finding is None:
            return progress
        if finding.action is Action.ROLLBACK:
            return self._roll_back(progress, finding)
        if finding.action is Action.REDUCE_LEARNING_RATE:
            self._reduce(progress, finding)
        elif finding.action is Action.STOP_EARLY:
            self._stop_early(progress, finding)
        else:
            raise self._stopped(finding, f": {CURE}")
        return progress

    def _agree(self, findings: list[Finding]) -> Finding | None:
        """Return the most severe finding of rank 0, on every rank."""
        mine = max(findings, key=lambda finding: SEVERITY.index(finding.action), default=None)
        code = self.distributed.from_first(0 if mine is None else _code(mine))
        if mine is not None and code == _code(mine):
            return mine
        return _CODES[code - 1] if code else None

    def _roll_back(self, progress: Progress, finding: Finding) -> Progress:
        stability, noticed = self.config.stability, progress.step
        budget = f"stability.maxRollbacks is {stability.max_rollbacks}"
        if progress.rollbacks >= stability.max_rollbacks:
            raise self._stopped(finding, f" after {progress.rollbacks} roll-back(s), and {budget}: {CURE}")
        factor = max(
            min(progress.learning_rate_factor, stability.min_learning_rate_factor),
            progress.learning_rate_factor * stability.learning_rate_factor,
        )
        with self.metric_logger.interval.paused(), self.metric_logger.reporter.phase("restore"):
            restored = self.rollback.to_healthy(progress, self.monitor.last_healthy_step, factor)
        if restored is None:
            raise self._stopped(
                finding, f", and there is no healthy checkpoint to roll back to: {CURE}, or save more often"
            )
        self.monitor.load_state_dict(restored.stability)
        skipped = restored.skipped_windows[-1][1] - restored.skipped_windows[-1][0]
        self._report(
            finding,
            f" Rolled back from step {noticed} to {restored.step} (roll-back {restored.rollbacks} of "
            f"{stability.max_rollbacks}), skipping {skipped} tokens; "
            f"the learning rate is × {factor:g}.",
        )
        self.metric_logger.rolled_back(restored, noticed - restored.step)
        return restored

    def _reduce(self, progress: Progress, finding: Finding) -> None:
        stability, before = self.config.stability, progress.learning_rate_factor
        factor = stability.learning_rate_factor if finding.factor is None else finding.factor
        floor = stability.min_learning_rate_factor if finding.floor is None else finding.floor
        after = progress.learning_rate_factor = max(min(before, floor), before * factor)
        if after < before:
            self._report(finding, f" The learning rate is × {after:g} from now on.")
        else:
            warning = replace(finding, action=Action.WARN)
            self._report(warning, f" The learning rate stays × {after:g}, the minimum allowed.")

    def _stop_early(self, progress: Progress, finding: Finding) -> None:
        if progress.step == self.config.steps:
            return
        best, ending = self.monitor.early_stopping, ""
        if self._restores_best and best.best_step != progress.step:
            with self.metric_logger.interval.paused(), self.metric_logger.reporter.phase("restore"):
                restored = self.rollback.to_best(best.best_step)
            if restored is None:
                ending = f" The checkpoint of step {best.best_step} is gone: the weights stay as they are."
            else:
                progress.validation_loss = restored.validation_loss
                progress.ema_validation_loss = restored.ema_validation_loss
                ending = f" The weights are those of step {best.best_step}."
        where = f"at step {progress.step} of {self.config.steps}"
        progress.stopped = f"Training stopped early {where}: {finding.message}{ending}"
        self._report(finding, f" Training stops early {where}.{ending}")
        self.metric_logger.reporter.stopped_early(progress.stopped)

    @property
    def _restores_best(self) -> bool:
        return bool(self.config.early_stopping.patience and self.config.early_stopping.restore_best)

    def _report(self, finding: Finding, done: str) -> None:
        self.metric_logger.anomaly(finding.kind, finding.action, f"{finding.message}{done}")

    def _stopped(self, finding: Finding, why: str) -> DivergenceError:
        """Report that training stops, and return the error that stops it."""
        message = f"{finding.message.removesuffix('.')}{why}."
        self.metric_logger.anomaly(finding.kind, Action.STOP, message)
        self.rollback.finish_saves()
        return DivergenceError(message)


def stability_monitor(config: TrainingConfig) -> StabilityMonitor:
    """Return the detectors of a job."""
    schedule = config.schedule
    plateau = PlateauSchedule(
        patience=schedule.patience if schedule.kind == "plateau" else 0,
        warmup_steps=schedule.warmup_steps,
        min_delta=schedule.min_delta,
        factor=schedule.factor,
        floor=schedule.final_ratio,
    )
    return StabilityMonitor(config.stability, config.steps, EarlyStopping(config.early_stopping), plateau)


_CODES: Final = [
    Finding(kind, action, f"{kind} was found by rank 0.") for kind in ACTIONS for action in ACTIONS[kind]
]
"""The findings that ranks exchange, by place in this list from 1; 0 is none."""


def _code(finding: Finding) -> int:
    kinds = [(other.kind, other.action) for other in _CODES]
    return 1 + kinds.index((finding.kind, finding.action))
