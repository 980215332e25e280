"""`/metrics`: a Prometheus collector over the snapshot files, read anew at every scrape.

Values of the whole job appear on the pod of rank 0 alone, so that sums over pods count nothing twice; every
pod serves its state and what belongs to its own ranks. Labels job, instance, namespace and pod are the
scrape's to add.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from aurl_trainer import __version__
from aurl_trainer.contract import LaunchRole
from aurl_trainer.launcher.environment import LaunchEnvironment
from aurl_trainer.launcher.rundir import RunDirectory
from aurl_trainer.monitor.goodput import BADPUT_CAUSES
from aurl_trainer.monitor.snapshot import (
    CHECKPOINT_RESULTS,
    PHASES,
    SKIP_REASONS,
    STATES,
    JobSnapshot,
    PreparationSnapshot,
    RankSnapshot,
)


@dataclass(frozen=True)
class Reading:
    """What one scrape shows: the run directory and the state of the pod."""

    seen: RunDirectory
    state: str


class TrainerCollector(Collector):
    """Turns a reading of the run directory into metric families."""

    def __init__(self, environment: LaunchEnvironment, role: LaunchRole, read: Callable[[], Reading]) -> None:
        self._environment, self._role, self._read = environment, role, read

    def collect(self) -> Iterator[Metric]:
        """Yield all families of this pod."""
        reading = self._read()
        state = GaugeMetricFamily(
            "aurl_train_state", "1 for the state the pod is in, 0 for all others.", labels=["state"]
        )
        for name in STATES:
            state.add_metric([name], float(name == reading.state))
        yield state
        if self._role == "prepare":
            yield _prepared_files(reading.seen.preparation)
            return
        yield from _rank_families(reading.seen.ranks, self._environment.local_ranks)
        if self._environment.node_rank == 0:
            main = reading.seen.ranks.get(0)
            yield from _job_families(self._environment, main, (main and main.job) or JobSnapshot())


def render(environment: LaunchEnvironment, role: LaunchRole, read: Callable[[], Reading]) -> bytes:
    """Return the exposition in Prometheus' text format."""
    return generate_latest(TrainerCollector(environment, role, read))


def _prepared_files(preparation: PreparationSnapshot | None) -> Metric:
    files = CounterMetricFamily(
        "aurl_prepare_files", "Files that the preparation has dealt with.", labels=["result"]
    )
    done, dropped = (preparation.files_done, preparation.files_dropped) if preparation is not None else (0, 0)
    files.add_metric(["tokenized"], max(0, done - dropped))
    files.add_metric(["dropped"], dropped)
    return files


def _rank_families(ranks: dict[int, RankSnapshot], expected: range) -> Iterator[Metric]:
    waits = CounterMetricFamily(
        "aurl_train_data_wait_seconds", "Time a rank has waited for its next batch.", labels=["rank"]
    )
    memory = GaugeMetricFamily(
        "aurl_train_memory_bytes", "Memory of a rank, by kind.", labels=["rank", "kind"]
    )
    peaks = GaugeMetricFamily(
        "aurl_train_memory_phase_peak_bytes",
        "Highest memory of a rank while it did something, by what and by kind.",
        labels=["rank", "phase", "kind"],
    )
    beats = GaugeMetricFamily(
        "aurl_train_heartbeat_timestamp_seconds", "When a rank finished its last step.", labels=["rank"]
    )
    for rank in expected:
        snapshot = ranks.get(rank)
        waits.add_metric([str(rank)], snapshot.phase_seconds.get("data_wait", 0.0) if snapshot else 0.0)
        if snapshot is None:
            continue
        for kind, value in snapshot.memory.items():
            memory.add_metric([str(rank), kind], value)
        for phase, kinds in snapshot.memory_phases.items():
            for kind, value in kinds.items():
                peaks.add_metric([str(rank), phase, kind], value)
        if snapshot.heartbeat_at is not None:
            beats.add_metric([str(rank)], snapshot.heartbeat_at)
    yield from (waits, memory, peaks, beats)


def _job_families(
    environment: LaunchEnvironment, main: RankSnapshot | None, job: JobSnapshot
) -> Iterator[Metric]:
    if job.mode:
        info = GaugeMetricFamily(
            "aurl_train_info",
            "What is being trained; always 1.",
            labels=["mode", "precision", "world_size", "attempt", "version"],
        )
        info.add_metric(
            [job.mode, job.precision, str(environment.world_size), str(environment.attempt), __version__], 1.0
        )
        yield info
    loss = GaugeMetricFamily("aurl_train_loss", "Latest loss in nats per token.", labels=["split"])
    losses = {
        "train": job.loss,
        "validation": job.validation_loss,
        "validation_ema": job.ema_validation_loss,
    }
    for split, value in losses.items():
        if value is not None:
            loss.add_metric([split], value)
    yield loss
    own = (
        ("loss_term", "Extra loss of the user's own, before its weight.", "term", job.loss_terms),
        ("loss_component", "Mean of a term of the loss, before its weight.", "term", job.loss_components),
        ("evaluation", "Evaluation metric, the user's own included.", "metric", job.evaluation),
    )
    for family, documentation, label, values in own:
        gauge = GaugeMetricFamily(f"aurl_train_{family}", documentation, labels=[label])
        for name, value in values.items():
            gauge.add_metric([name], value)
        yield gauge
    checkpoint = job.last_checkpoint
    saved_step, saved_at = (checkpoint.step, checkpoint.time) if checkpoint else (None, None)
    gauges = (
        ("step", "Optimizer steps done, those of earlier attempts included.", main.step if main else None),
        ("steps_planned", "Optimizer steps in all.", job.total_steps or None),
        ("start_step", "The step this attempt began at.", job.start_step if job.total_steps else None),
        ("learning_rate", "Learning rate of the last step.", job.learning_rate),
        ("gradient_norm", "Gradient norm before clipping.", job.gradient_norm),
        ("tokens_per_second", "Tokens per second, whole job, last log interval.", job.tokens_per_second),
        ("samples_per_second", "Samples per second, whole job, last log interval.", job.samples_per_second),
        ("step_seconds", "Mean duration of a step over the last log interval.", job.step_seconds),
        ("sequence_length_tokens", "Tokens per sample.", job.sequence_length),
        ("batch_size_samples", "Samples per optimizer step, whole job.", job.batch_size),
        ("micro_batch_size_samples", "Most samples in one pass of a rank.", job.micro_batch_size),
        ("checkpoint_step", "Step of the newest checkpoint.", saved_step),
        ("checkpoint_timestamp_seconds", "Commit of the newest checkpoint.", saved_at),
        ("checkpoint_save_seconds", "How long the last save took.", job.checkpoint_seconds),
        ("mfu_ratio", "Model FLOPs per second as a share of the devices' peak.", job.mfu),
        ("goodput_ratio", "Goodput as a share of the job's wall clock.", job.goodput_ratio),
        ("goodput_seconds", "Training time of all attempts that was not lost.", job.goodput_seconds),
    )  # fmt: skip
    for name, documentation, number in gauges:
        if number is not None:
            yield GaugeMetricFamily(f"aurl_train_{name}", documentation, value=float(number))
    yield CounterMetricFamily(
        "aurl_train_tokens", "Tokens trained by this attempt, whole job.", value=job.tokens
    )
    yield CounterMetricFamily(
        "aurl_train_samples", "Samples trained by this attempt, whole job.", value=job.samples
    )
    badput = GaugeMetricFamily(
        "aurl_train_badput_seconds",
        "Wall clock of the job, all attempts, that was not training.",
        labels=["cause"],
    )
    for cause in BADPUT_CAUSES:
        badput.add_metric([cause], job.badput_seconds.get(cause, 0.0))
    yield badput
    compute = GaugeMetricFamily(
        "aurl_train_compute_seconds",
        "What a rank works on its own in a step (data and forward passes), recent mean.",
        labels=["rank"],
    )
    for rank, seconds in enumerate(job.compute_seconds):
        compute.add_metric([str(rank)], seconds)
    yield compute
    phases = main.phase_seconds if main else {}
    yield _counters(
        "aurl_train_time_seconds", "Wall clock of rank 0 by what it did.", "phase", PHASES, phases
    )
    yield _counters(
        "aurl_train_checkpoints", "Checkpoints by result.", "result", CHECKPOINT_RESULTS, job.checkpoints
    )
    yield CounterMetricFamily(
        "aurl_train_rollbacks", "Returns to the last healthy checkpoint.", value=job.rollbacks
    )
    yield CounterMetricFamily(
        "aurl_train_lost_steps", "Optimizer steps that roll-backs have thrown away.", value=job.lost_steps
    )
    anomalies = CounterMetricFamily(
        "aurl_train_anomalies", "What went wrong, and what was done about it.", labels=["kind", "action"]
    )
    for kind, actions in job.anomalies.items():
        for action, count in actions.items():
            anomalies.add_metric([kind, action], count)
    yield anomalies
    yield _counters(
        "aurl_train_skipped_steps",
        "Steps whose update was left out, by reason.",
        "reason",
        SKIP_REASONS,
        job.skipped_steps,
    )


def _counters(
    name: str,
    documentation: str,
    label: str,
    known: tuple[str, ...],
    values: dict[str, int] | dict[str, float],
) -> Metric:
    """Return a counter family in which every known child exists from the first scrape on."""
    family = CounterMetricFamily(name, documentation, labels=[label])
    for child in known:
        family.add_metric([child], values.get(child, 0))
    return family
