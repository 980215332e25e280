"""Metrics of the operator, as docs/contracts.md lists them, on a registry of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Literal, get_args

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

#: How far a job has come back after a failure.
Recovered = Literal["pods_created", "first_step"]


class Metrics:
    """All metrics of the operator, on a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.reconcile_seconds = Histogram(
            "aurl_operator_reconcile_seconds",
            "Duration of one reconciliation.",
            buckets=_FAST,
            registry=self.registry,
        )
        self.reconciles = Counter(
            "aurl_operator_reconciles_total",
            "Reconciliations by result.",
            ["result"],
            registry=self.registry,
        )
        for result in ("ok", "conflict", "retry", "error"):
            self.reconciles.labels(result)
        self.api_requests = Counter(
            "aurl_operator_api_requests_total",
            "Requests to the API server; code 0 had no answer.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self.restarts = Counter(
            "aurl_operator_restarts_total",
            "Gang restarts by class of failure.",
            ["class"],
            registry=self.registry,
        )
        self.failures = Counter(
            "aurl_operator_failures_total",
            "Jobs that failed for good by class of failure.",
            ["class"],
            registry=self.registry,
        )
        for name in get_args(FailureClass):
            self.restarts.labels(name)
            self.failures.labels(name)
        self.admissions = Counter(
            "aurl_operator_admissions_total",
            "Reviews of the validating webhook by result.",
            ["result"],
            registry=self.registry,
        )
        for result in ("allowed", "refused", "malformed", "error"):
            self.admissions.labels(result)
        self.submit_to_pods = Histogram(
            "aurl_operator_submit_to_pods_created_seconds",
            "From the creation of a job to the existence of all its worker pods (first attempt).",
            buckets=_SLOW,
            registry=self.registry,
        )
        self.recovery = Histogram(
            "aurl_operator_recovery_seconds",
            "From the failure of an attempt to the existence of all worker pods of the next one, and to its "
            "first optimizer step.",
            ["until"],
            buckets=_SLOW,
            registry=self.registry,
        )
        for until in get_args(Recovered):
            self.recovery.labels(until)
        self.submit_to_first_step = Histogram(
            "aurl_operator_submit_to_first_step_seconds",
            "From the creation of a job to its first optimizer step (first attempt).",
            buckets=_SLOW,
            registry=self.registry,
        )
        self._watch_last_event = Gauge(
            "aurl_operator_watch_last_event_timestamp_seconds",
            "When a watch last brought an event.",
            ["resource"],
            registry=self.registry,
        )
        self._watch_last_contact = Gauge(
            "aurl_operator_watch_last_contact_timestamp_seconds",
            "When a watch last brought an event, or was answered when it was opened anew.",
            ["resource"],
            registry=self.registry,
        )
        self._last_resync = Gauge(
            "aurl_operator_last_resync_timestamp_seconds",
            "When all objects were last listed.",
            registry=self.registry,
        )

    def export(
        self,
        jobs: Callable[[], Iterable[JobView]],
        queue_depth: Callable[[], float],
        queue_oldest: Callable[[], float],
        is_leader: Callable[[], bool],
    ) -> None:
        """Export gauges that are computed whenever the metrics are scraped."""
        self.registry.register(_JobCollector(jobs))
        for name, description, value in (
            ("queue_depth", "Jobs waiting to be reconciled.", queue_depth),
            (
                "queue_oldest_seconds",
                "Age of the oldest job in the queue or in reconciliation.",
                queue_oldest,
            ),
            ("leader", "1 if this replica is the leader, else 0.", lambda: float(is_leader())),
        ):
            Gauge(f"aurl_operator_{name}", description, registry=self.registry).set_function(value)

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


class _JobCollector(Collector):
    """Gauges about jobs, computed from the cache when scraped: a deleted job leaves no series behind."""

    def __init__(self, jobs: Callable[[], Iterable[JobView]]) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        """Gauges by state and by job."""
        states = get_args(State)
        counts = dict.fromkeys(states, 0)
        by_job = ["job_namespace", "job_name"]
        state = GaugeMetricFamily(
            "aurl_operator_job_state", "1 for the state that a job is in.", labels=[*by_job, "state"]
        )
        step = GaugeMetricFamily("aurl_operator_job_step", "Optimizer steps done.", labels=by_job)
        loss = GaugeMetricFamily("aurl_operator_job_loss", "Training loss, nats per token.", labels=by_job)
        speed = GaugeMetricFamily(
            "aurl_operator_job_tokens_per_second", "Tokens per second of the whole job.", labels=by_job
        )
        slow = GaugeMetricFamily(
            "aurl_operator_job_stragglers", "Ranks that are slower than their peers.", labels=by_job
        )
        for job in self._jobs():
            labels = [job.ref.namespace, job.ref.name]
            current = job.status.state or "Pending"
            counts[current] += 1
            for name in states:
                state.add_metric([*labels, name], float(name == current))
            slow.add_metric(labels, len(job.status.stragglers))
            progress = job.status.progress or Progress()
            gauges = ((progress.step, step), (progress.loss, loss), (progress.tokens_per_second, speed))
            for value, family in gauges:
                if value is not None:
                    family.add_metric(labels, value)
        total = GaugeMetricFamily("aurl_operator_jobs", "Jobs by state.", labels=["state"])
        for name in states:
            total.add_metric([name], counts[name])
        yield from (total, state, slow, step, loss, speed)
