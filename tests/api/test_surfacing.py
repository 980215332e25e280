"""Whatever blocks a job surfaces within 15 s, as a reason, a message and an event, until it is resolved.

`pytest --collect-only -k surfaces` lists the cases. The tests wait for the reason of the condition Stalled. A
failure after which the gang restarts is the reason of Reconciling and is recorded in status.lastFailure.
"""

from __future__ import annotations

import pytest

from api.api_harness import JobNamespace
from aurl_dev.kube import ApiError, Object
from aurl_dev.waiting import wait_for

pytestmark = [pytest.mark.api, pytest.mark.usefixtures("operator")]

SOON = 15.0


def surfaced(ns: JobNamespace, job: str, reason: str, *words: str) -> str:
    """Wait until condition and event give a reason, in one message with these words, and only once."""
    message = str(ns.stalled(job, reason, SOON)["message"])
    event = ns.event(job, reason, SOON)
    assert event["type"] == "Warning"
    assert event["message"] == message
    for word in words:
        assert word in message
    assert message.endswith(".") and "\n" not in message
    return message


def cured(ns: JobNamespace, job: str) -> None:
    """Wait until nothing blocks the job."""
    wait_for("the blocker to go", lambda: ns.condition(job, "Stalled")["status"] == "False")


def restarted(ns: JobNamespace, job: str, reason: str, *words: str) -> Object:
    """Wait until a lost worker is reported; return status.lastFailure."""

    def look() -> Object | None:
        failure = ns.status(job).get("lastFailure")
        return failure if failure and failure["reason"] == reason else None

    failure = wait_for(f"lastFailure {reason} of {job}", look, SOON)
    event = ns.event(job, "Restarting", SOON)
    assert event["type"] == "Warning"
    for word in words:
        assert word in failure["message"]
        assert word in event["message"]
    assert failure["class"] == "Infrastructure"
    assert ns.condition(job, "Reconciling")["reason"] in (reason, "Starting")
    return failure


def test_surfaces_quota(ns: JobNamespace) -> None:
    ns.create("resourcequotas", {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}})
    wait_for("the quota to be enforced", lambda: "hard" in ns.objects("resourcequotas")[0].get("status", {}))
    ns.create_job("poor")
    surfaced(ns, "poor", "QuotaExceeded", "poor-prepare-0", "exceeded quota: none")
    ns.delete("resourcequotas", "none")
    ns.prepare("poor")
    cured(ns, "poor")


def test_surfaces_an_admission_denial(ns: JobNamespace) -> None:
    limit = {"limits": [{"type": "Container", "max": {"memory": "1Gi"}}]}
    ns.create("limitranges", {"metadata": {"name": "small"}, "spec": limit})
    resources = {"requests": {"memory": "2Gi"}, "limits": {"memory": "2Gi"}}

    def denied() -> bool:
        """Return whether the API server enforces the new LimitRange, which takes a moment."""
        name = f"large-{len(names)}"
        names.append(name)
        ns.create_job(name, resourcesPerNode=resources)
        wait_for("a sign", lambda: ns.pods(name) or ns.condition(name, "Stalled").get("status") == "True")
        return not ns.pods(name)

    names: list[str] = []
    wait_for("the limit to be enforced", denied)
    surfaced(ns, names[-1], "AdmissionDenied", f"{names[-1]}-prepare-0", "maximum memory usage per Container")
    assert ns.status(names[-1])["state"] == "Pending"
    ns.delete("limitranges", "small")
    ns.prepare(names[-1])
    cured(ns, names[-1])


def test_surfaces_an_admission_webhook_that_does_not_answer(ns: JobNamespace) -> None:
    selector = {"matchExpressions": [{"key": "aurl.ai/job-name", "operator": "In", "values": ["unheard"]}]}
    webhook = {
        "name": "sidecars.example.com",
        "clientConfig": {"url": "https://127.0.0.1:1/mutate"},
        "rules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
        ],
        "objectSelector": selector,
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    configurations = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
    ns.api.request("POST", configurations, {"metadata": {"name": "nobody"}, "webhooks": [webhook]})
    try:
        refused = {"metadata": {"labels": {"aurl.ai/job-name": "unheard"}, "generateName": "probe-"}}
        container = {"name": "main", "image": "none"}

        def enforced() -> bool:
            try:
                ns.create("pods", {**refused, "spec": {"containers": [container]}})
            except ApiError as error:
                return error.code == 500
            return False

        wait_for("the webhook to be called", enforced)
        ns.create_job("unheard")
        surfaced(ns, "unheard", "CreateFailed", "unheard-prepare-0", "failed calling webhook", "sidecars.")
        assert ns.status("unheard")["state"] == "Pending"
    finally:
        ns.api.delete(f"{configurations}/nobody")
    for probe in ns.pods("unheard"):
        if probe.startswith("probe-"):
            ns.delete("pods", probe)
    ns.prepare("unheard")
    cured(ns, "unheard")


def test_surfaces_an_evicted_pod(ns: JobNamespace) -> None:
    ns.create_job("evicted", runPolicy__backoffLimit=0)
    ns.prepare("evicted")
    ns.train("evicted")
    pod = f"/api/v1/namespaces/{ns.namespace}/pods/evicted-0-1/status"
    status = {
        "phase": "Failed",
        "reason": "Evicted",
        "message": "The node was low on resource: memory.",
    }
    ns.api.request("PATCH", pod, {"status": status})
    restarted(ns, "evicted", "Evicted", "evicted-0-1", "low on resource: memory")
    ns.train("evicted", attempt=1)  # the backoff limit of 0 does not count it
    assert ns.status("evicted")["restarts"]["byClass"] == {"Infrastructure": 1}


def test_surfaces_a_lost_node(ns: JobNamespace) -> None:
    ns.create_job("remote", runPolicy__backoffLimit=0)
    ns.prepare("remote")
    ns.wait_pods("remote", "remote-0-0", "remote-0-1")
    ns.bind("remote-0-1", node="far")
    ns.train("remote")
    pod = f"/api/v1/namespaces/{ns.namespace}/pods/remote-0-1"

    def ready(value: str) -> None:
        """Report pods as the node controller does when a kubelet stops or resumes reporting."""
        condition = {"type": "Ready", "status": value, "lastTransitionTime": "2026-01-01T00:00:00Z"}
        ns.api.request("PATCH", f"{pod}/status", {"status": {"conditions": [condition]}})

    ready("False")
    surfaced(ns, "remote", "NodeNotReporting", "Node far of pod remote-0-1")
    assert ns.status("remote")["state"] == "Running"
    ready("True")
    cured(ns, "remote")
    ready("False")
    ns.delete("pods", "remote-0-1")  # as the taint manager does after 30 s; no kubelet confirms it
    restarted(ns, "remote", "NodeLost", "Node far of pod remote-0-1 no longer reports")
    ns.confirm_gone("remote-0-1")  # the operator would force this two minutes later
    ns.train("remote", attempt=1)
    assert ns.status("remote")["restarts"]["byClass"] == {"Infrastructure": 1}


def test_surfaces_a_missing_claim_until_it_exists(ns: JobNamespace) -> None:
    ns.create_job("claimless", storage={"claimName": "nowhere"})
    surfaced(ns, "claimless", "ClaimNotFound", "'nowhere'")
    assert ns.pods("claimless") == {}
    claim = {
        "metadata": {"name": "nowhere"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    ns.create("persistentvolumeclaims", claim)
    ns.wait_pods("claimless", "claimless-prepare-0")
    cured(ns, "claimless")
    ns.delete_job("claimless")
    # The garbage collector discovers new kinds every 30 s.
    wait_for("the job's objects to go", lambda: not ns.children("claimless"), 90)
    assert [c["metadata"]["name"] for c in ns.objects("persistentvolumeclaims")] == ["nowhere"]


def test_surfaces_an_image_that_cannot_be_pulled(ns: JobNamespace) -> None:
    ns.create_job("imageless", image="registry.test/nothing:v0")
    pod = "imageless-prepare-0"
    ns.wait_pods("imageless", pod)
    ns.cannot_start(pod, "ErrImagePull", "registry.test/nothing:v0: not found")
    surfaced(ns, "imageless", "ImagePullBackOff", "registry.test/nothing:v0")
    ns.cannot_start(pod, "ImagePullBackOff", 'Back-off pulling image "registry.test/nothing:v0"')
    wait_for("the second message", lambda: "Back-off" in ns.condition("imageless", "Stalled")["message"])
    assert len([e for e in ns.events("imageless") if e["reason"] == "ImagePullBackOff"]) == 1
    assert set(ns.pods("imageless")) == {pod}
    ns.run(pod)
    cured(ns, "imageless")


def test_surfaces_pods_that_no_node_has_room_for(ns: JobNamespace) -> None:
    ns.create_job("huge", resourcesPerNode={"requests": {"memory": "100Ti"}})
    ns.wait_pods("huge", "huge-prepare-0")
    ns.unschedulable("huge-prepare-0", "0/1 nodes are available: 1 Insufficient memory.")
    surfaced(ns, "huge", "Unschedulable", "huge-prepare-0", "1 Insufficient memory")


def test_a_pod_that_is_scheduled_late_surfaces_nothing(ns: JobNamespace) -> None:
    ns.create_job("binding")
    ns.wait_pods("binding", "binding-prepare-0")
    ns.unschedulable("binding-prepare-0", "pod has unbound immediate PersistentVolumeClaims")
    ns.prepare("binding")
    ns.train("binding")
    assert [e["reason"] for e in ns.events("binding") if e["type"] == "Warning"] == []
