"""Metrics of the operator, as docs/contracts.md lists them, on a registry of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from aurl_operator.api.status import FailureClass, JobStatus, Progress, State
from aurl_operator.core.actions import Plan
from aurl_operator.core.views import JobView

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW = (0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800)


class Metrics:
    """All metrics of the operator, on a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.reconcile_seconds = self._histogram(
            "reconcile_seconds", "Duration of one reconciliation.", _FAST
        )
        self.reconciles = self._counter(
            "reconciles_total", "Reconciliations by result.", "result", ("ok", "conflict", "retry", "error")
        )
        self.api_requests = Counter(
            "aurl_operator_api_requests_total",
            "Requests to the API server; code 0: no answer.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        classes = get_args(FailureClass)
        self.restarts = self._counter("restarts_total", "Gang restarts by failure class.", "class", classes)
        self.failures = self._counter(
            "failures_total", "Permanently failed jobs by failure class.", "class", classes
        )
        self.admissions = self._counter(
            "admissions_total",
            "Reviews of the validating webhook by result.",
            "result",
            ("allowed", "refused", "malformed", "error"),
        )
        self.submit_to_pods = self._histogram(
            "submit_to_pods_created_seconds",
            "Time from the creation of a job until all its worker pods exist (first attempt).",
            _SLOW,
        )
        self.submit_to_first_step = self._histogram(
            "submit_to_first_step_seconds",
            "Time from the creation of a job to its first optimizer step (first attempt).",
            _SLOW,
        )
        self.recovery = Histogram(
            "aurl_operator_recovery_seconds",
            "Time from the failure of an attempt until all worker pods of the next one exist, and to its "
            "first optimizer step.",
            ["until"],
            buckets=_SLOW,
            registry=self.registry,
        )
        for until in ("pods_created", "first_step"):
            self.recovery.labels(until)
        self._watch_last_event = self._time(
            "watch_last_event", "Time of the last event of a watch.", "resource"
        )
        self._watch_last_contact = self._time(
            "watch_last_contact", "Time of the last event or successful opening of a watch.", "resource"
        )
        self._last_resync = self._time("last_resync", "Time of the last full relist.")

    def _counter(self, name: str, text: str, label: str, values: Iterable[str]) -> Counter:
        """A counter that starts at 0 for each value of its label, so that rates see the first increment."""
        counter = Counter(f"aurl_operator_{name}", text, [label], registry=self.registry)
        for value in values:
            counter.labels(value)
        return counter

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"aurl_operator_{name}", text, buckets=buckets, registry=self.registry)

    def _time(self, name: str, text: str, *labels: str) -> Gauge:
        """A gauge of Unix time."""
        return Gauge(f"aurl_operator_{name}_timestamp_seconds", text, labels, registry=self.registry)

    def export(
        self,
        jobs: Callable[[], Iterable[JobView]],
        queue_depth: Callable[[], float],
        queue_oldest: Callable[[], float],
        is_leader: Callable[[], bool],
    ) -> None:
        """Export gauges that are computed whenever the metrics are scraped."""
        self.registry.register(_JobCollector(jobs))
        for name, text, value in (
            ("queue_depth", "Jobs waiting to be reconciled.", queue_depth),
            ("queue_oldest_seconds", "Age of the oldest job queued or in reconciliation.", queue_oldest),
            ("leader", "1 if this replica is the leader, else 0.", lambda: float(is_leader())),
        ):
            Gauge(f"aurl_operator_{name}", text, registry=self.registry).set_function(value)

    def count_request(self, verb: str, resource: str, code: int) -> None:
        """Count a request to the API server."""
        self.api_requests.labels(verb, resource, str(code)).inc()

    def watch_event(self, resource: str) -> None:
        """Note that a watch delivered an event."""
        self._watch_last_event.labels(resource).set_to_current_time()

    def watch_contact(self, resource: str) -> None:
        """Note that a watch delivered an event or was opened."""
        self._watch_last_contact.labels(resource).set_to_current_time()

    def resynced(self) -> None:
        """Note that a resync is complete."""
        self._last_resync.set_to_current_time()

    def count(self, decided: Plan) -> None:
        """Count the restart or failure that a plan decided on."""
        if decided.restarted_now:
            self.restarts.labels(decided.restarted_now).inc()
        if decided.failed_now:
            self.failures.labels(decided.failed_now).inc()

    def observe_transition(self, created: datetime | None, before: JobStatus, after: JobStatus) -> None:
        """Measure the time to all worker pods, and to the first step, when a new status shows either.

        It counts from the creation of the job, or from the failure before a later attempt.
        """
        if after.attempt == 0:
            since, pods, step = created, self.submit_to_pods, self.submit_to_first_step
        elif after.last_failure is not None and after.last_failure.attempt == after.attempt - 1:
            since = after.last_failure.time
            pods, step = self.recovery.labels("pods_created"), self.recovery.labels("first_step")
        else:
            return
        if since is None:
            return
        pods_created, stepped = _worker_pods_created(after), _first_step(after)
        if pods_created and not _worker_pods_created(before):
            pods.observe(max((pods_created - since).total_seconds(), 0.0))
        # The progress of the previous attempt stays until the new one reports its own.
        stepped_before = _first_step(before)
        if stepped and stepped > since and (stepped_before is None or stepped_before < since):
            step.observe((stepped - since).total_seconds())


def _worker_pods_created(status: JobStatus) -> datetime | None:
    launch = status.launch
    return launch.created_time if launch and launch.role == "worker" else None


def _first_step(status: JobStatus) -> datetime | None:
    return status.progress.first_step_time if status.progress else None


def _progress(job: JobView) -> Progress:
    return job.status.progress or Progress()


#: Name, description and value of each gauge per job; a value of None is not exported.
_JOB_GAUGES: tuple[tuple[str, str, Callable[[JobView], float | None]], ...] = (
    ("job_step", "Optimizer steps completed.", lambda job: _progress(job).step),
    ("job_loss", "Training loss in nats per token.", lambda job: _progress(job).loss),
    (
        "job_tokens_per_second",
        "Tokens per second of the whole job.",
        lambda job: _progress(job).tokens_per_second,
    ),
    ("job_stragglers", "Ranks slower than their peers.", lambda job: len(job.status.stragglers)),
)


class _JobCollector(Collector):
    """Gauges about jobs, computed from the store when scraped: a deleted job leaves no series behind."""

    def __init__(self, jobs: Callable[[], Iterable[JobView]]) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges by state and by job."""
        by_job, states = ["job_namespace", "job_name"], get_args(State)
        counts = dict.fromkeys(states, 0)
        state = GaugeMetricFamily(
            "aurl_operator_job_state", "1 for the current state of a job.", labels=[*by_job, "state"]
        )
        gauges = [
            (GaugeMetricFamily(f"aurl_operator_{name}", text, labels=by_job), value)
            for name, text, value in _JOB_GAUGES
        ]
        for job in self._jobs():
            labels = [job.ref.namespace, job.ref.name]
            current = job.status.state or "Pending"
            counts[current] += 1
            for name in states:
                state.add_metric([*labels, name], float(name == current))
            for family, value_of in gauges:
                value = value_of(job)
                if value is not None:
                    family.add_metric(labels, value)
        total = GaugeMetricFamily("aurl_operator_jobs", "Jobs by state.", labels=["state"])
        for name in states:
            total.add_metric([name], counts[name])
        yield from (total, state, *(family for family, _ in gauges))
