"""What the loop tells about itself: a log line, a metric update and a TensorBoard point per interval."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from aurl_trainer.checkpoint.state import Progress
from aurl_trainer.checkpoint.writer import SaveResult
from aurl_trainer.config import TrainingConfig
from aurl_trainer.loop.tensorboard import TensorBoard
from aurl_trainer.model.utilisation import Utilisation
from aurl_trainer.monitor.report import RankReporter
from aurl_trainer.optim.guard import GuardReading
from aurl_trainer.stability.anomaly import Action, Anomaly
from aurl_trainer.stability.reading import Reading

log = logging.getLogger("aurl_trainer.train")

NO_TERMS: Mapping[str, float] = MappingProxyType({})


class Stopwatch:
    """Seconds since the last lap, without the pauses."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time inside out of the lap."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._started += time.perf_counter() - began

    def lap(self) -> float:
        """Return the seconds of this lap and begin the next."""
        now = time.perf_counter()
        seconds, self._started = now - self._started, now
        return seconds


class MetricLogger:
    """Tells reporter, TensorBoard and log what happens; other ranks only keep their snapshot current."""

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
        self.config, self.progress, self.reporter, self.board, self.first = (
            config,
            progress,
            reporter,
            board,
            first,
        )
        self.utilisation = utilisation
        self.interval = Stopwatch()
        self._waited = reporter.waited

    def steps(
        self,
        loss_sum: float,
        rate: float,
        guard: GuardReading,
        length: int,
        term_sums: Mapping[str, float] = NO_TERMS,
        components: Mapping[str, float] = NO_TERMS,
    ) -> Reading:
        """Report the steps since the last call; `loss_sum` in nats is over all ranks and all of these steps.

        `length` is the last step's tokens per sample; `term_sums` are the extra losses by name, summed as the
        loss is; `components` are the means of the terms of `training.losses`. Returns the same for the
        detectors.
        """
        progress, config = self.progress, self.config
        seconds = self.interval.lap()
        progress.loss = loss_sum / max(progress.interval_tokens, 1)
        terms = {name: total / max(progress.interval_tokens, 1) for name, total in term_sums.items()}
        if progress.initial_loss is None:
            progress.initial_loss = progress.loss
        samples = progress.interval_samples
        per_step = config.batch.global_batch_size * config.context_length
        tokens = progress.interval_steps * per_step
        progress.interval_tokens = progress.interval_steps = progress.interval_samples = 0
        mfu = self.utilisation.mfu(tokens / seconds, length)
        self.reporter.log_step(
            progress.step,
            loss=progress.loss,
            learning_rate=rate,
            gradient_norm=guard.norm,
            tokens=tokens,
            samples=samples,
            seconds=seconds,
            sequence_length=length,
            batch_size=per_step // length,
            mfu=mfu,
            terms=terms,
            components=components,
        )
        values = {
            "loss/train": progress.loss,
            "optimizer/learning_rate": rate,
            "optimizer/gradient_norm": guard.norm,
            "speed/tokens_per_second": tokens / seconds,
            "curriculum/sequence_length": length,
        }
        if mfu is not None:
            values["speed/mfu"] = mfu
        values |= {f"component/{name}": value for name, value in components.items()}
        values |= {f"term/term_{name}": value for name, value in terms.items()}
        self.board.scalars(progress.step, values)
        self._info("step", {name.partition("/")[2]: value for name, value in values.items()})
        waited = self.reporter.waited
        share, self._waited = (waited - self._waited) / seconds, waited
        return Reading(
            step=progress.step,
            loss=progress.loss,
            initial_loss=progress.initial_loss,
            gradient_norm=guard.norm,
            sequence_length=length,
            skips=guard.consecutive,
            skip_kind=self._skips(guard),
            tokens_per_second=tokens / seconds,
            data_wait_share=share,
        )

    def rolled_back(self, progress: Progress, lost_steps: int) -> None:
        """Go on from `progress`, after `lost_steps` optimizer steps were thrown away."""
        self.progress = progress
        self.board.rewind(progress.step)
        self.reporter.rolled_back(progress.step, lost_steps)
        self.interval.lap()

    def _skips(self, guard: GuardReading) -> Anomaly:
        """Report updates that were left out since the last call, and return why most of them were."""
        most, kind_of_most = 0, Anomaly.NON_FINITE
        for reason, kind, total in (
            ("nonfinite", Anomaly.NON_FINITE, guard.nonfinite),
            ("spike", Anomaly.GRADIENT_EXPLOSION, guard.spikes),
        ):
            new = total - self.progress.skips_reported[reason]
            if new > 0:
                self.progress.skips_reported[reason] = total
                self.reporter.skipped(reason, new)
                text = f"Left out {new} update(s): {reason} gradient, last at step {guard.last_rejected}."
                self.anomaly(kind, Action.SKIP, text, count=new)
                if new > most:
                    most, kind_of_most = new, kind
        return kind_of_most

    def anomaly(self, kind: Anomaly, action: Action, message: str, *, count: int = 1) -> None:
        """Report that `kind` was noticed (`count` times) and `action` is taken: counter, log line and event.

        Every rank may call it; rank 0 speaks. `message` is one sentence that says what was seen and done.
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
        """Report the loss on the held-out split in nats per token: of the weights and of their average."""
        progress = self.progress
        progress.validation_loss, progress.ema_validation_loss = loss, ema_loss
        progress.validation_step = progress.step
        self.reporter.validation(progress.step, loss, ema_loss)
        values = {"validation": loss} | ({"validation_ema": ema_loss} if ema_loss is not None else {})
        self.board.scalars(progress.step, {f"loss/{name}": value for name, value in values.items()})
        self._info("evaluation", values)

    def metrics(self, values: dict[str, float]) -> None:
        """Report evaluation metrics: ours, and those of the user's own."""
        if values:
            self.reporter.evaluation(values)
            self.board.scalars(
                self.progress.step, {f"evaluation/{name}": value for name, value in values.items()}
            )
            self._info("metrics", values)

    def saves(self, results: list[SaveResult]) -> None:
        """Report checkpoints that were committed or could not be."""
        for result in results:
            if result.checkpoint is not None:
                self.reporter.checkpoint(result.step, result.checkpoint.path, result.seconds)
                log.info("checkpoint", extra={"step": result.step, "seconds": round(result.seconds, 3)})
            else:
                self.reporter.checkpoint(result.step, "", result.seconds, result="failed")
                text = f"The checkpoint could not be saved and training goes on: {result.error}."
                self.reporter.event("CheckpointFailed", result.step, text)
                log.error("checkpoint failed", extra={"step": result.step, "reason": str(result.error)})

    def _info(self, event: str, values: dict[str, float]) -> None:
        if self.first:
            log.info(event, extra={"step": self.progress.step, **values})
