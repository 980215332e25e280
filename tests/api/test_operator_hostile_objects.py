"""Jobs, statuses, annotations and children that make no sense, on an API server that takes anything as a job.

Whatever is written, the operator neither ends nor errs nor mistakes it for something else, and the next job
gets through.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from api.api_harness import JOB, Object, Playground, wait_for
from api.conftest import defined, loose_definition
from aurl_dev.cluster.api import Api
from aurl_dev.operator_process import OperatorProcess

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
def job_kind(api: Api) -> Iterator[None]:
    """A server that checks nothing itself, not even what its scale subresource reads."""
    definition = loose_definition()
    del definition["spec"]["versions"][0]["subresources"]["scale"]
    with defined(api, definition):
        yield


@pytest.fixture(autouse=True)
def unimpressed(ground: Playground, operator: OperatorProcess) -> Iterator[None]:
    """The operator lives, has made no mistake, and the next job gets through."""
    yield
    ground.create_job("next", numNodes=1)
    ground.prepare("next")
    ground.train("next", nodes=1)
    assert operator.metric("aurl_operator_reconciles_total", result="error") == 0
    assert operator.get("/healthz") == (200, "ok")


def create(ground: Playground, name: str, spec: object, **metadata: Any) -> Object:
    """A job with any specification."""
    path = f"/apis/aurl.ai/v1alpha1/namespaces/{ground.namespace}/aurltrainingjobs"
    return ground.api.request("POST", path, {**JOB, "metadata": {"name": name, **metadata}, "spec": spec})


def test_specifications_that_make_no_sense_fail_at_once_with_a_sentence(ground: Playground) -> None:
    for name, spec in SPECS.items():
        create(ground, name, spec)
    for name in SPECS:
        status = ground.state(name, "Failed")
        assert status["lastFailure"]["class"] == "UserError", name
        message = ground.condition(name, "Failed")["message"]
        assert message.startswith("The specification is invalid: spec"), (name, message)
        assert len(message) < 2000, name
        assert ground.children(name) == [], name


def test_a_manager_that_makes_no_sense_is_somebody_else(ground: Playground) -> None:
    for name, manager in (("number", 5), ("object", {"a": 1}), ("list", [])):
        create(ground, name, {**SOUND, "managedBy": manager})
    ground.create_job("ours", numNodes=1)
    ground.state("ours", "Preparing")
    for name in ("number", "object", "list"):
        assert ground.status(name) == {}
        assert ground.children(name) == []


def test_statuses_that_make_no_sense_neither_stop_nor_finish_a_job(ground: Playground) -> None:
    jobs = f"/apis/aurl.ai/v1alpha1/namespaces/{ground.namespace}/aurltrainingjobs"
    for name, status in STATUSES.items():
        create(ground, name, {**SOUND, "suspend": True})
        ground.state(name, "Suspended")
        ground.api.request("PATCH", f"{jobs}/{name}/status", {"status": status})
        ground.patch_job(name, {"suspend": False})
    for name in STATUSES:
        pods = wait_for(f"the preparation of {name}", partial(ground.pods, name))
        (pod,) = pods
        assert pod.startswith(f"{name}-prepare-")
        assert ground.status(name)["restarts"]["total"] == 0, name
        assert ground.condition(name, "Failed")["status"] == "Unknown", name


def test_annotations_and_labels_of_a_job_change_nothing(ground: Playground) -> None:
    labels = {"aurl.ai/job-name": "other", "aurl.ai/job-uid": "x", "aurl.ai/attempt": "x", "team": ""}
    annotations = {
        "kubectl.kubernetes.io/last-applied-configuration": "{not json",
        "aurl.ai/anything": "\u202e" * 10,
        "kopf.zalando.org/last-handled-configuration": "[" * 1000,
        "large": "x" * 200_000,
    }
    create(ground, "decorated", SOUND, labels=labels, annotations=annotations)
    ground.prepare("decorated")
    ground.train("decorated")
    assert len(ground.pods("decorated")) == 3


def test_children_that_others_made_or_spoiled_are_no_members(ground: Playground) -> None:
    uid = ground.create_job("lured", numNodes=1)["metadata"]["uid"]
    ground.prepare("lured")
    ground.train("lured", nodes=1)
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
            ground.create("pods", {"metadata": metadata, "spec": spec})
    # One that looks like a worker of a later attempt, but that nobody owns.
    worker = {"aurl.ai/attempt": "7", "aurl.ai/role": "worker", "aurl.ai/replica-index": "0"}
    ground.create("pods", {"metadata": {"name": "lure-later", "labels": {**ours, **worker}}, "spec": spec})
    core = f"/api/v1/namespaces/{ground.namespace}"
    data = {"data": {"spec.json": "[" * 1000, "job.yaml": "\u202e"}}
    ground.api.request("PATCH", f"{core}/configmaps/lured-config", data)
    wait_for(
        "the ConfigMap to be mended",
        lambda: "steps" in ground.api.get(f"{core}/configmaps/lured-config")["data"]["job.yaml"],
    )
    status = ground.status("lured")
    assert (status["state"], status["attempt"], status["restarts"]["total"]) == ("Running", 0, 0)
    assert "deletionTimestamp" not in ground.pods("lured")["lured-0-0"]["metadata"]
