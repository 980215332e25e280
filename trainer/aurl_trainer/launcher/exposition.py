"""`/metrics`: a Prometheus collector over the snapshot files, which each scrape reads again.

Only the pod of rank 0 serves values of the whole job, so that sums over pods count nothing twice; every pod
serves its state and the values of its own ranks. The scrape adds the labels job, instance, namespace and pod.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from aurl_trainer import __version__
from aurl_trainer.contract import LaunchRole
from aurl_trainer.launcher.environment import LaunchEnvironment
from aurl_trainer.launcher.rundir import RunDirectory
from aurl_trainer.metrics import Counter, Gauge, gauge_values
from aurl_trainer.monitor.snapshot import (
    PHASES,
    STATES,
    JobSnapshot,
    PreparationSnapshot,
    RankSnapshot,
)


@dataclass(frozen=True)
class PodCollector(Collector):
    """Turns the contents of the run directory and the state of the pod into metric families."""

    environment: LaunchEnvironment
    role: LaunchRole
    seen: RunDirectory
    state: str

    def collect(self) -> Iterator[Metric]:
        """Yield all families of this pod."""
        state = GaugeMetricFamily(
            "aurl_train_state", "1 for the current state of the pod, 0 for all others.", labels=["state"]
        )
        for name in STATES:
            state.add_metric([name], float(name == self.state))
        yield state
        if self.role == "prepare":
            yield _prepared_files(self.seen.preparation)
            return
        yield from _rank_families(self.seen.ranks, self.environment.local_ranks)
        if self.environment.node_rank == 0:
            main = self.seen.ranks.get(0)
            yield from _job_families(self.environment, main, (main and main.job) or JobSnapshot())


def render(environment: LaunchEnvironment, role: LaunchRole, seen: RunDirectory, state: str) -> bytes:
    """Return the exposition in Prometheus' text format."""
    return generate_latest(PodCollector(environment, role, seen, state))


def _prepared_files(preparation: PreparationSnapshot | None) -> Metric:
    files = CounterMetricFamily(
        "aurl_prepare_files", "Files processed by the preparation.", labels=["result"]
    )
    done, dropped = (preparation.files_done, preparation.files_dropped) if preparation is not None else (0, 0)
    files.add_metric(["tokenized"], max(0, done - dropped))
    files.add_metric(["dropped"], dropped)
    return files


def _rank_families(ranks: dict[int, RankSnapshot], expected: range) -> Iterator[Metric]:
    waits = CounterMetricFamily(
        "aurl_train_data_wait_seconds", "Time that a rank has waited for data.", labels=["rank"]
    )
    memory = GaugeMetricFamily(
        "aurl_train_memory_bytes", "Memory of a rank, by kind.", labels=["rank", "kind"]
    )
    peaks = GaugeMetricFamily(
        "aurl_train_memory_phase_peak_bytes",
        "Peak memory of a rank by phase and by kind.",
        labels=["rank", "phase", "kind"],
    )
    beats = GaugeMetricFamily(
        "aurl_train_heartbeat_timestamp_seconds",
        "Time at which a rank finished its last step.",
        labels=["rank"],
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
            "Configuration of the training; always 1.",
            labels=["mode", "precision", "world_size", "attempt", "version"],
        )
        info.add_metric(
            [
                job.mode,
                job.precision or "",
                str(environment.world_size),
                str(environment.attempt),
                __version__,
            ],
            1.0,
        )
        yield info
    yield from _declared(job, job.validation, job.last_checkpoint, job.metrics)
    if main is not None:
        yield GaugeMetricFamily(
            "aurl_train_step", "Optimizer steps done, including those of earlier attempts.", value=main.step
        )
    if job.total_steps:
        yield GaugeMetricFamily(
            "aurl_train_start_step", "Step at which this attempt started.", value=job.start_step
        )
    phases = CounterMetricFamily(
        "aurl_train_time_seconds", "Wall-clock time of rank 0 by phase.", labels=["phase"]
    )
    for phase in PHASES:
        phases.add_metric([phase], main.phase_seconds.get(phase, 0.0) if main else 0.0)
    yield phases
    anomalies = CounterMetricFamily(
        "aurl_train_anomalies", "Anomalies by kind, and by the action taken.", labels=["kind", "action"]
    )
    for kind, actions in job.anomalies.items():
        for action, count in actions.items():
            anomalies.add_metric([kind, action], count)
    yield anomalies


def _declared(*records: object) -> Iterator[Metric]:
    """Yield the gauges and counters that the records declare; the last record wins for the same child."""
    families: dict[Gauge, dict[str, float]] = {}
    for record in records:
        for gauge, child, value in gauge_values(record):
            families.setdefault(gauge, {})[child] = value
    for gauge, children in families.items():
        kind = CounterMetricFamily if isinstance(gauge, Counter) else GaugeMetricFamily
        family = kind(f"aurl_train_{gauge.name}", gauge.help, labels=[gauge.label] if gauge.label else [])
        for child, value in children.items():
            family.add_metric([child] if gauge.label else [], value)
        yield family
