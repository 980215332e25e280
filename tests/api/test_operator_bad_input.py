"""Bad input on a real API server: a condition and an event in one sentence, and no crash-looping pods.

What else may stand in a job's way is in test_surfacing.py.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from api.api_harness import Playground, wait_for
from api.conftest import CRD_NAME, CRD_PATH
from aurl_dev.cluster.api import Api
from aurl_dev.operator_process import OperatorProcess

pytestmark = [pytest.mark.api, pytest.mark.usefixtures("operator")]

#: What the issue promises is 30 s; this is our own goal.
SOON = 15.0


def test_a_startup_deadline_ends_the_wait(ground: Playground) -> None:
    ground.create_job("late", storage={"claimName": "nowhere"}, runPolicy={"startupDeadlineSeconds": 2})
    ground.state("late", "Failed", SOON)
    failed = ground.condition("late", "Failed")
    assert failed["reason"] == "StartupDeadlineExceeded"
    assert "nowhere" in failed["message"]


def test_a_deleted_namespace_is_no_failure(ground: Playground, operator: OperatorProcess) -> None:
    ground.create_job("doomed")
    ground.prepare("doomed")
    ground.train("doomed")
    ground.hold_job("doomed")
    ground.delete("pods", "doomed-0-0")  # which the operator is about to replace
    ground.api.delete(f"/api/v1/namespaces/{ground.namespace}")
    wait_for("the pods to go", lambda: not ground.objects("pods"))
    wait_for("the operator to see it", lambda: "namespace is being deleted" in operator.log())
    status = ground.status("doomed")
    assert status["state"] != "Failed"
    assert "lastFailure" not in status or status["lastFailure"]["class"] == "Infrastructure"
    # Its claim may be seen to go before the first refusal.
    assert ground.condition("doomed", "Stalled")["reason"] in ("NotBlocked", "ClaimLost")
    ground.hold_job("doomed", hold=False)
    assert [e["reason"] for e in ground.events("doomed") if e["reason"] == "AdmissionDenied"] == []
    assert [x for x in operator.log_lines() if x["level"] == "warning" and x.get("job") == "doomed"] == []


def test_pods_that_the_server_finds_invalid_fail_the_job_at_once(ground: Playground) -> None:
    wrong: dict[str, Any] = {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}
    }
    ground.create_job("crooked", podTemplate={"affinity": wrong})
    status = ground.state("crooked", "Failed", SOON)
    assert status["lastFailure"]["class"] == "UserError"
    assert "nodeSelectorTerms" in ground.condition("crooked", "Failed")["message"]
    assert ground.pods("crooked") == {}


def test_a_dataset_without_a_valid_file_fails_the_job_at_once(ground: Playground) -> None:
    ground.create_job("silent", runPolicy={"backoffLimit": 5})
    ground.wait_pods("silent", "silent-prepare-0")
    report = {
        "state": "Failed",
        "class": "UserError",
        "exitCode": 2,
        "message": "No valid MIDI file in 3 files.",
    }
    ground.fail("silent-prepare-0", 2, report)
    status = ground.state("silent", "Failed", SOON)
    assert status["restarts"]["total"] == 0
    assert "No valid MIDI file" in ground.condition("silent", "DatasetReady")["message"]
    assert "No valid MIDI file" in ground.event("silent", "UserError")["message"]
    assert set(ground.pods("silent")) == {"silent-prepare-0"}


def test_a_name_that_is_taken_is_told(ground: Playground) -> None:
    ground.create("configmaps", {"metadata": {"name": "clash-config"}, "data": {}})
    ground.create_job("clash")
    assert "clash-config" in ground.stalled("clash", "NameConflict", SOON)["message"]
    assert ground.pods("clash") == {}
    ground.delete("configmaps", "clash-config")
    ground.prepare("clash")


@pytest.fixture
def lenient(api: Api, job_kind: None) -> Iterator[None]:
    """A server that takes anything as spec.training, as one with an older CRD might."""
    strict = api.get(f"{CRD_PATH}/{CRD_NAME}")
    loose: dict[str, Any] = copy.deepcopy(strict)
    spec = loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["training"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}

    def put(definition: dict[str, Any]) -> None:
        version = api.get(f"{CRD_PATH}/{CRD_NAME}")["metadata"]["resourceVersion"]
        metadata = {"name": CRD_NAME, "resourceVersion": version}
        api.request("PUT", f"{CRD_PATH}/{CRD_NAME}", {**definition, "metadata": metadata})

    put(loose)
    yield
    put(strict)


@pytest.mark.usefixtures("lenient")
def test_the_operator_refuses_what_the_server_let_through(
    ground: Playground, operator: OperatorProcess
) -> None:
    def refused() -> str:
        """Name of a job that reached the operator as it was written: its watches must be renewed first."""
        name = f"typo-{uuid.uuid4().hex[:6]}"
        ground.create_job(name, training={"steps": 400, "stepz": 1, "model": {"dropout": 1.5}})
        ground.state(name, "Failed", SOON)
        return name if "stepz" in ground.condition(name, "Failed")["message"] else ""

    name = wait_for("the lenient definition", refused)
    assert ground.status(name)["lastFailure"]["class"] == "UserError"
    message = ground.condition(name, "Failed")["message"]
    assert "spec.training.model.dropout" in message
    assert ground.event(name, "InvalidSpec")["message"] == message
    assert ground.children(name) == []
