"""Malformed statuses, labels, pods and reports: plan() never raises and keeps everything that parses."""

from __future__ import annotations

import copy
import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from aurl_operator.api.base import parse_time
from aurl_operator.core.actions import Kind, Plan
from aurl_operator.core.plan import plan
from aurl_operator.core.podview import pod_view
from aurl_operator.core.progress import ProgressReport
from aurl_operator.core.views import is_finished, read_status
from unit.operator.builders import NOW, OPTIONS, make_job, observe, running

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["True", "Running", "Failed", "2026-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"]
    )
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
BASE = running()


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all places inside a nested object."""
    found = [prefix] if prefix else []
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, inner in children:
        found += paths(inner, (*prefix, key))
    return found


def spoil(obj: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy with another value in one place."""
    spoilt = copy.deepcopy(obj)
    owner = spoilt
    for key in path[:-1]:
        owner = owner[key]
    owner[path[-1]] = value
    return spoilt


def an_object(value: Any) -> dict[str, Any] | None:
    """Return the value if it is an object; the API server returns nothing else."""
    return value if isinstance(value, dict) else None


def snapshot() -> dict[str, Any]:
    """Return everything that plan() sees of a running job with a failed worker, as one object."""
    deadlines = {
        "activeDeadlineSeconds": 3600,
        "startupDeadlineSeconds": 3600,
        "hangDeadlineSeconds": 3600,
        "ttlSecondsAfterFinished": 3600,
    }
    world = running(make_job(runPolicy=deadlines))
    world.fail("bach-0-1", 137, {"state": "Failed", "class": "OutOfMemory", "lastCheckpoint": {"step": 3}})
    world.ask_to_leave("bach-0-0")
    report = {
        "step": 10,
        "totalSteps": 400,
        "startStep": 0,
        "loss": 2.0,
        "tokensPerSecond": 5.0,
        "lastCheckpoint": {"step": 5, "path": "p", "time": "2026-01-01T00:00:00Z"},
        "firstStepAt": "2026-01-01T00:00:00Z",
        "updatedAt": "2026-01-01T00:00:09Z",
    }
    return {
        "job": world.job,
        "pods": list(world.pods.values()),
        "service": world.service,
        "config_map": world.config_map,
        "network_policy": world.network_policy,
        "claim": world.claim,
        "report": report,
    }


def elastic_snapshot() -> dict[str, Any]:
    """Return a shrunken job that asks for more nodes, with failures of nodes and stragglers."""
    elastic = {"minNodes": 1, "maxNodes": 4, "growIntervalSeconds": 0}
    world = running(make_job(numNodes=2, elastic=elastic, gangScheduling={"scheduleTimeoutSeconds": 60}))
    world.job["spec"]["numNodes"] = 3
    world.settle()
    world.place(bach_0_2="node-3")
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T11:59:59Z"}
    world.pods["bach-0-2"]["status"]["conditions"] = [scheduled]
    failed = {"node": "bad", "failures": 3, "reason": "Evicted", "lastTime": "2026-01-01T11:00:01Z"}
    world.job["status"] |= {
        "elasticNodes": 2,
        "nodeFailures": [failed],
        "stragglers": [{"rank": 1, "node": "node-1", "slowdown": 2.0, "since": "2026-01-01T11:59:59Z"}],
        "scheduling": {"releases": 2, "since": "2026-01-01T11:00:00Z", "retryTime": "2026-01-01T12:00:01Z"},
    }
    world.job["status"]["launch"]["avoidedNodes"] = ["bad"]
    return {
        "job": world.job,
        "pods": list(world.pods.values()),
        "service": world.service,
        "config_map": world.config_map,
        "network_policy": world.network_policy,
        "claim": world.claim,
        "report": {"step": 10, "totalSteps": 400, "computeSeconds": [1.0, 2.0]},
    }


SNAPSHOTS = {"failed": snapshot(), "elastic": elastic_snapshot()}
PLACES = [
    (name, path)
    for name, seen in SNAPSHOTS.items()
    for path in paths(seen)
    if len(path) > 1 and (name, *path[:2]) != ("failed", "pods", 3)
]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(PLACES), JSON, st.lists(st.tuples(st.sampled_from(PLACES), JSON), max_size=2))
def test_plan_survives_anything_anywhere(
    place: tuple[str, tuple[Any, ...]], value: Any, more: list[tuple[tuple[str, tuple[Any, ...]], Any]]
) -> None:
    name = place[0]
    seen = SNAPSHOTS[name]
    changes = [(place[1], value), *((path, item) for (where, path), item in more if where == name)]
    for path, value in changes:
        try:
            seen = spoil(seen, path, value)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    owned: list[tuple[Kind, Any]] = [("Pod", pod) for pod in seen["pods"] if isinstance(pod, dict)]
    owned += [
        ("Service", an_object(seen["service"])),
        ("ConfigMap", an_object(seen["config_map"])),
        ("NetworkPolicy", an_object(seen["network_policy"])),
    ]
    body = seen["report"] if isinstance(seen["report"], dict) else {}
    report = ProgressReport(body, 0, NOW)
    observed = observe(seen["job"], owned, report, NOW, OPTIONS, an_object(seen["claim"]))
    decided = plan(observed) if observed else Plan()
    if decided.status is not None:
        json.dumps(decided.status.model_dump(mode="json", by_alias=True, exclude_none=True), allow_nan=False)


@settings(max_examples=100, deadline=None)
@given(JSON)
def test_any_status_reads(raw: Any) -> None:
    status = read_status(raw)
    is_finished(status)


@pytest.mark.parametrize(
    ("key", "value"),
    [("progress", {"step": -1}), ("conditions", [{"type": 1}, None]), ("launch", "x"), ("future", {"a": 1})],
)
def test_one_malformed_field_does_not_cost_the_others(key: str, value: Any) -> None:
    raw = {"restarts": {"total": 7, "byClass": {"Hang": 7}, "consecutive": 2}, "attempt": 9, key: value}
    status = read_status(raw)
    assert status.restarts.total == 7
    assert status.attempt == 9


def test_one_malformed_condition_does_not_make_a_finished_job_start() -> None:
    raw = {"conditions": [{"type": "Succeeded", "status": "True"}, {"type": "Running", "status": "maybe"}]}
    assert is_finished(read_status(raw))


@pytest.mark.parametrize("label", ["", "x", "-1", "1e9", "99999999999999999999", None, 3.5, "٣"])
def test_a_pod_with_a_strange_label_is_no_member(label: Any) -> None:
    pod = copy.deepcopy(BASE.pods["bach-0-0"])
    pod["metadata"]["labels"]["aurl.ai/attempt"] = label
    assert pod_view(pod) is None


@pytest.mark.parametrize(
    "text", ["", "yesterday", "0000-00-00T00:00:00Z", 5, None, "2026-01-01T00:00:00+99:00"]
)
def test_a_time_that_is_none_reads_as_none(text: Any) -> None:
    assert parse_time(text) is None
