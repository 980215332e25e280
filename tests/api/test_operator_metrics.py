"""The life of one job in the operator's metrics: durations, failures, restarts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from api.api_harness import JobNamespace
from api.launcher import launcher
from aurl_dev.kube import Object
from aurl_dev.operator_process import OperatorProcess
from aurl_dev.waiting import wait_for

pytestmark = pytest.mark.api

PREFIX = "aurl_operator_"
DIVERGED = {"state": "Failed", "class": "Divergence", "message": "loss is NaN"}


def answer(attempt: int) -> Object:
    """Return the /progress of a launcher after its first step."""
    return {
        "attempt": attempt,
        "state": "Training",
        "step": 1,
        "totalSteps": 9,
        "firstStepAt": datetime.now(UTC).isoformat(),
    }


def test_the_life_of_a_job_is_counted_and_timed(ns: JobNamespace, operator: OperatorProcess) -> None:
    before = operator.metrics()

    def grown(name: str, **labels: str) -> float:
        key = (f"{PREFIX}{name}", frozenset(labels.items()))
        return operator.metrics().get(key, 0) - before.get(key, 0)

    def reaches(wanted: float, name: str, **labels: str) -> None:
        wait_for(f"{name} {labels} to be {wanted}", lambda: grown(name, **labels) == wanted)

    ns.create_job("measured", numNodes=1, runPolicy={"backoffLimit": 1})
    ns.prepare("measured")
    with launcher("127.0.0.19", answer(0)):
        ns.wait_pods("measured", "measured-0-0")
        ns.run("measured-0-0", ip="127.0.0.19")
        reaches(1, "submit_to_pods_created_seconds_count")
        reaches(1, "submit_to_first_step_seconds_count")
        reaches(1, "jobs", state="Running")
    assert 0 <= grown("submit_to_pods_created_seconds_sum") < 60
    assert 0 < grown("submit_to_first_step_seconds_sum") < 60
    ns.fail("measured-0-0", 3, DIVERGED)
    ns.wait_pods("measured", "measured-1-0")
    with launcher("127.0.0.20", answer(1)):
        reaches(1, "recovery_seconds_count", until="pods_created")
        ns.run("measured-1-0", ip="127.0.0.20")
        reaches(1, "recovery_seconds_count", until="first_step")
        reaches(1, "restarts_total", **{"class": "Divergence"})
    assert grown("failures_total", **{"class": "Divergence"}) == 0
    ns.fail("measured-1-0", 3, DIVERGED)
    ns.state("measured", "Failed")
    reaches(1, "failures_total", **{"class": "Divergence"})
    reaches(1, "jobs", state="Failed")
    reaches(0, "jobs", state="Running")
    assert grown("submit_to_pods_created_seconds_count") == 1

    assert grown("reconciles_total", result="ok") > 3
    assert grown("reconciles_total", result="error") == 0
    assert grown("reconcile_seconds_count") > 3
    assert grown("api_requests_total", verb="post", resource="pods", code="201") == 3
    assert grown("api_requests_total", verb="patch", resource="aurltrainingjobs/status", code="200") > 3
    assert operator.metric(f"{PREFIX}leader") == 1


def test_the_operator_reports_its_own_state(ns: JobNamespace, operator: OperatorProcess) -> None:
    began = datetime.now(UTC).timestamp()
    ns.create_job("seen", numNodes=1)
    ns.prepare("seen")
    ns.train("seen", nodes=1)

    def fresh(name: str) -> Callable[[], bool]:
        return lambda: operator.metric(f"{PREFIX}{name}", resource="pods") >= began

    wait_for("an event of the pods' watch", fresh("watch_last_event_timestamp_seconds"))
    wait_for("a contact of it", fresh("watch_last_contact_timestamp_seconds"))
    assert 0 < operator.metric(f"{PREFIX}last_resync_timestamp_seconds") <= datetime.now(UTC).timestamp()
    wait_for("the queue to be empty", lambda: operator.metric(f"{PREFIX}queue_depth") == 0)
    assert operator.metric(f"{PREFIX}queue_oldest_seconds") < 60
    assert operator.metric("process_resident_memory_bytes") > 0
