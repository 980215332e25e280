"""Bad input on a real API server: a condition and an event in one sentence, and no crash-looping pods.

Other blockers are in test_surfacing.py.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from api.api_harness import JobNamespace
from aurl_dev import crd
from aurl_dev.kube import Kube
from aurl_dev.operator_process import OperatorProcess
from aurl_dev.waiting import wait_for

pytestmark = [pytest.mark.api, pytest.mark.usefixtures("operator")]

#: 30 s are promised; this is the goal.
SOON = 15.0


def test_a_startup_deadline_ends_the_wait(ns: JobNamespace) -> None:
    ns.create_job("late", storage={"claimName": "nowhere"}, runPolicy={"startupDeadlineSeconds": 2})
    ns.state("late", "Failed", SOON)
    failed = ns.condition("late", "Failed")
    assert failed["reason"] == "StartupDeadlineExceeded"
    assert "nowhere" in failed["message"]


def test_a_deleted_namespace_is_not_a_failure(ns: JobNamespace, operator: OperatorProcess) -> None:
    ns.create_job("doomed")
    ns.prepare("doomed")
    ns.train("doomed")
    ns.hold_job("doomed")
    ns.delete("pods", "doomed-0-0")  # the operator is about to replace it
    ns.api.delete(f"/api/v1/namespaces/{ns.namespace}")
    wait_for("the pods to go", lambda: not ns.objects("pods"))
    wait_for("the operator to see it", lambda: "namespace is being deleted" in operator.log())
    status = ns.status("doomed")
    assert status["state"] != "Failed"
    assert "lastFailure" not in status or status["lastFailure"]["class"] == "Infrastructure"
    # The claim may be deleted before the first refusal.
    assert ns.condition("doomed", "Stalled")["reason"] in ("NotBlocked", "ClaimLost")
    ns.hold_job("doomed", hold=False)
    assert [e["reason"] for e in ns.events("doomed") if e["reason"] == "AdmissionDenied"] == []
    assert [x for x in operator.log_lines() if x["level"] == "warning" and x.get("job") == "doomed"] == []


def test_pods_that_the_server_finds_invalid_fail_the_job_immediately(ns: JobNamespace) -> None:
    wrong: dict[str, Any] = {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}
    }
    ns.create_job("crooked", podTemplate={"affinity": wrong})
    status = ns.state("crooked", "Failed", SOON)
    assert status["lastFailure"]["class"] == "UserError"
    assert "nodeSelectorTerms" in ns.condition("crooked", "Failed")["message"]
    assert ns.pods("crooked") == {}


def test_a_dataset_without_a_valid_file_fails_the_job_immediately(ns: JobNamespace) -> None:
    ns.create_job("silent", runPolicy={"backoffLimit": 5})
    ns.wait_pods("silent", "silent-prepare-0")
    report = {
        "state": "Failed",
        "class": "UserError",
        "exitCode": 2,
        "message": "No valid MIDI file in 3 files.",
    }
    ns.fail("silent-prepare-0", 2, report)
    status = ns.state("silent", "Failed", SOON)
    assert status["restarts"]["total"] == 0
    assert "No valid MIDI file" in ns.condition("silent", "DatasetReady")["message"]
    assert "No valid MIDI file" in ns.event("silent", "UserError")["message"]
    assert set(ns.pods("silent")) == {"silent-prepare-0"}


def test_a_name_conflict_is_reported(ns: JobNamespace) -> None:
    ns.create("configmaps", {"metadata": {"name": "clash-config"}, "data": {}})
    ns.create_job("clash")
    assert "clash-config" in ns.stalled("clash", "NameConflict", SOON)["message"]
    assert ns.pods("clash") == {}
    ns.delete("configmaps", "clash-config")
    ns.prepare("clash")


@pytest.fixture
def lenient(api: Kube, job_kind: None) -> Iterator[None]:
    """A server that accepts any spec.training, as one with an older CRD might."""
    strict = api.get(crd.PATH)
    loose: dict[str, Any] = copy.deepcopy(strict)
    spec = loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["training"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}

    def put(definition: dict[str, Any]) -> None:
        version = api.get(crd.PATH)["metadata"]["resourceVersion"]
        metadata = {"name": strict["metadata"]["name"], "resourceVersion": version}
        api.request("PUT", crd.PATH, {**definition, "metadata": metadata})

    put(loose)
    yield
    put(strict)


@pytest.mark.usefixtures("lenient")
def test_the_operator_rejects_what_the_server_accepted(ns: JobNamespace, operator: OperatorProcess) -> None:
    def refused() -> str:
        """Return the name of a job that reached the operator unchanged, once its watches are renewed."""
        name = f"typo-{uuid.uuid4().hex[:6]}"
        ns.create_job(name, training={"steps": 400, "stepz": 1, "model": {"dropout": 1.5}})
        ns.state(name, "Failed", SOON)
        return name if "stepz" in ns.condition(name, "Failed")["message"] else ""

    name = wait_for("the lenient CRD", refused)
    assert ns.status(name)["lastFailure"]["class"] == "UserError"
    message = ns.condition(name, "Failed")["message"]
    assert "spec.training.model.dropout" in message
    assert ns.event(name, "InvalidSpec")["message"] == message
    assert ns.children(name) == []
