"""Nonsensical jobs, statuses, annotations and children, on an API server that accepts any job.

The operator must not crash, fail or misread them, and the next job must run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from api.api_harness import JOB, JobNamespace
from api.conftest import defined, loose_definition
from aurl_dev.kube import Kube, Object
from aurl_dev.operator_process import OperatorProcess
from aurl_dev.waiting import wait_for

pytestmark = [pytest.mark.api, pytest.mark.usefixtures("operator")]

STORAGE: Object = {"claimTemplate": {"size": "1Gi"}}
SOUND: Object = JOB["spec"]
DEEP: Any = json.loads('{"a":' * 150 + "1" + "}" * 150)
SPECS: dict[str, Any] = {
    "empty": {},
    "words": {"numNodes": "many", "storage": STORAGE},
    "listed": {"numNodes": [1], "storage": [], "dataset": [], "training": []},
    "nulls": {"numNodes": None, "storage": None, "dataset": None, "training": None, "runPolicy": None},
    "infinite": {**SOUND, "numNodes": 10**18},
    "negative": {**SOUND, "runPolicy": {"backoffLimit": -1, "activeDeadlineSeconds": 0}},
    "fractions": {**SOUND, "numNodes": 1.5},
    "deep": {**SOUND, "dataset": DEEP, "training": DEEP},
    "long": {**SOUND, "image": "x" * 200_000},
    "wide": {**SOUND, "training": {f"key-{number}": number for number in range(5000)}},
    "suspicious": {**SOUND, "suspend": "yes please"},
    "privileged": {**SOUND, "podTemplate": {"hostNetwork": True, "serviceAccountName": "admin"}},
    "unprintable": {**SOUND, "storage": {"claimName": "\u202e/../../etc\n"}},
}
STATUSES: dict[str, Any] = {
    "state": {"state": 5},
    "conditions": {"conditions": "Succeeded"},
    "condition": {"conditions": [None, 7, {"type": "Succeeded"}, {"type": 1, "status": True}]},
    "attempt": {"attempt": -3},
    "time": {"startTime": "yesterday", "completionTime": "tomorrow"},
    "launch": {"launch": {"role": "king", "createdTime": {}}},
    "progress": {"progress": {"step": "NaN", "totalSteps": -1, "loss": {}}},
    "restarts": {"restarts": {"total": "all", "byClass": {"Boredom": 3}}},
    "nodes": {"nodeFailures": [{"node": "../../etc", "failures": -1}, "node-1"], "nodes": []},
    "failure": {"lastFailure": [], "lastCheckpoint": "step-5", "goodput": "good", "unheard": {"of": DEEP}},
}


@pytest.fixture(scope="module")
def job_kind(api: Kube) -> Iterator[None]:
    """A server that validates nothing, not even the fields of its scale subresource."""
    definition = loose_definition()
    del definition["spec"]["versions"][0]["subresources"]["scale"]
    with defined(api, definition):
        yield


@pytest.fixture(autouse=True)
def unharmed(ns: JobNamespace, operator: OperatorProcess) -> Iterator[None]:
    """After each test: the next job runs, no reconcile has failed, and the operator is healthy."""
    yield
    ns.create_job("next", numNodes=1)
    ns.prepare("next")
    ns.train("next", nodes=1)
    assert operator.metric("aurl_operator_reconciles_total", result="error") == 0
    assert operator.get("/healthz") == (200, "ok")


def create(ns: JobNamespace, name: str, spec: object, **metadata: Any) -> Object:
    """Create a job with any spec."""
    path = f"/apis/aurl.ai/v1alpha1/namespaces/{ns.namespace}/aurltrainingjobs"
    return ns.api.request("POST", path, {**JOB, "metadata": {"name": name, **metadata}, "spec": spec})


def test_nonsensical_specs_fail_immediately_with_a_message(ns: JobNamespace) -> None:
    for name, spec in SPECS.items():
        create(ns, name, spec)
    for name in SPECS:
        status = ns.state(name, "Failed")
        assert status["lastFailure"]["class"] == "UserError", name
        message = ns.condition(name, "Failed")["message"]
        assert message.startswith("The specification is invalid: spec"), (name, message)
        assert len(message) < 2000, name
        assert ns.children(name) == [], name


def test_a_nonsensical_manager_counts_as_another_controller(ns: JobNamespace) -> None:
    for name, manager in (("number", 5), ("object", {"a": 1}), ("list", [])):
        create(ns, name, {**SOUND, "managedBy": manager})
    ns.create_job("ours", numNodes=1)
    ns.state("ours", "Preparing")
    for name in ("number", "object", "list"):
        assert ns.status(name) == {}
        assert ns.children(name) == []


def test_nonsensical_statuses_neither_stop_nor_finish_a_job(ns: JobNamespace) -> None:
    jobs = f"/apis/aurl.ai/v1alpha1/namespaces/{ns.namespace}/aurltrainingjobs"
    for name, status in STATUSES.items():
        create(ns, name, {**SOUND, "suspend": True})
        ns.state(name, "Suspended")
        ns.api.request("PATCH", f"{jobs}/{name}/status", {"status": status})
        ns.patch_job(name, {"suspend": False})
    for name in STATUSES:
        pods = wait_for(f"the preparation of {name}", partial(ns.pods, name))
        (pod,) = pods
        assert pod.startswith(f"{name}-prepare-")
        assert ns.status(name)["restarts"]["total"] == 0, name
        assert ns.condition(name, "Failed")["status"] == "Unknown", name


def test_annotations_and_labels_of_a_job_change_nothing(ns: JobNamespace) -> None:
    labels = {"aurl.ai/job-name": "other", "aurl.ai/job-uid": "x", "aurl.ai/attempt": "x", "team": ""}
    annotations = {
        "kubectl.kubernetes.io/last-applied-configuration": "{not json",
        "aurl.ai/anything": "\u202e" * 10,
        "kopf.zalando.org/last-handled-configuration": "[" * 1000,
        "large": "x" * 200_000,
    }
    create(ns, "decorated", SOUND, labels=labels, annotations=annotations)
    ns.prepare("decorated")
    ns.train("decorated")
    assert len(ns.pods("decorated")) == 3


def test_children_made_or_spoiled_by_others_do_not_count(ns: JobNamespace) -> None:
    uid = ns.create_job("lured", numNodes=1)["metadata"]["uid"]
    ns.prepare("lured")
    ns.train("lured", nodes=1)
    owner = {
        "apiVersion": "aurl.ai/v1alpha1",
        "kind": "AurlTrainingJob",
        "name": "lured",
        "uid": uid,
        "controller": True,
    }
    ours = {"app.kubernetes.io/managed-by": "aurl-operator", "aurl.ai/job-uid": uid}
    spoilt: list[Object] = [
        {"aurl.ai/attempt": "x", "aurl.ai/role": "worker", "aurl.ai/replica-index": "0"},
        {"aurl.ai/attempt": "0", "aurl.ai/role": "king", "aurl.ai/replica-index": "0"},
        {"aurl.ai/attempt": "99999999999999999999", "aurl.ai/role": "worker", "aurl.ai/replica-index": "0"},
        {},
    ]
    spec = {"automountServiceAccountToken": False, "containers": [{"name": "trainer", "image": "x"}]}
    for number, labels in enumerate(spoilt):
        for owners in ([owner], []):
            name = f"lure-{number}-{len(owners)}"
            metadata = {"name": name, "labels": {**ours, **labels}, "ownerReferences": owners}
            ns.create("pods", {"metadata": metadata, "spec": spec})
    # Looks like a worker of a later attempt, but has no owner.
    worker = {"aurl.ai/attempt": "7", "aurl.ai/role": "worker", "aurl.ai/replica-index": "0"}
    ns.create("pods", {"metadata": {"name": "lure-later", "labels": {**ours, **worker}}, "spec": spec})
    core = f"/api/v1/namespaces/{ns.namespace}"
    data = {"data": {"spec.json": "[" * 1000, "job.yaml": "\u202e"}}
    ns.api.request("PATCH", f"{core}/configmaps/lured-config", data)
    wait_for(
        "the ConfigMap to be mended",
        lambda: "steps" in ns.api.get(f"{core}/configmaps/lured-config")["data"]["job.yaml"],
    )
    status = ns.status("lured")
    assert (status["state"], status["attempt"], status["restarts"]["total"]) == ("Running", 0, 0)
    assert "deletionTimestamp" not in ns.pods("lured")["lured-0-0"]["metadata"]
