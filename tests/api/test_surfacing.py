"""What keeps a job from going on is told within 15 s: a reason, a sentence and an event, and what cures it.

`pytest --collect-only -k surfaces` lists it all. What is waited for is the reason of the condition Stalled; a
failure after which the gang starts anew is that of Reconciling, and stands in status.lastFailure.
"""

from __future__ import annotations

import pytest

from api.api_harness import Object, Playground, wait_for

pytestmark = [pytest.mark.api, pytest.mark.usefixtures("operator")]

SOON = 15.0


def told(ground: Playground, job: str, reason: str, *words: str) -> str:
    """Wait until condition and event give a reason, in one sentence with these words, and only once."""
    message = str(ground.stalled(job, reason, SOON)["message"])
    event = ground.event(job, reason, SOON)
    assert event["type"] == "Warning"
    assert event["message"] == message
    for word in words:
        assert word in message
    assert message.endswith(".") and "\n" not in message
    return message


def cured(ground: Playground, job: str) -> None:
    """Nothing stands in the way any more."""
    wait_for("the blocker to go", lambda: ground.condition(job, "Stalled")["status"] == "False")


def restarted(ground: Playground, job: str, reason: str, *words: str) -> Object:
    """Wait until a lost worker is told; the failure as status.lastFailure has it."""

    def look() -> Object | None:
        failure = ground.status(job).get("lastFailure")
        return failure if failure and failure["reason"] == reason else None

    failure = wait_for(f"lastFailure {reason} of {job}", look, SOON)
    event = ground.event(job, "Restarting", SOON)
    assert event["type"] == "Warning"
    for word in words:
        assert word in failure["message"]
        assert word in event["message"]
    assert failure["class"] == "Infrastructure"
    assert ground.condition(job, "Reconciling")["reason"] in (reason, "Starting")
    return failure


def test_surfaces_quota(ground: Playground) -> None:
    ground.create("resourcequotas", {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}})
    wait_for("the quota to hold", lambda: "hard" in ground.objects("resourcequotas")[0].get("status", {}))
    ground.create_job("poor")
    told(ground, "poor", "QuotaExceeded", "poor-prepare-0", "exceeded quota: none")
    ground.delete("resourcequotas", "none")
    ground.prepare("poor")
    cured(ground, "poor")


def test_surfaces_an_admission_denial(ground: Playground) -> None:
    limit = {"limits": [{"type": "Container", "max": {"memory": "1Gi"}}]}
    ground.create("limitranges", {"metadata": {"name": "small"}, "spec": limit})
    resources = {"requests": {"memory": "2Gi"}, "limits": {"memory": "2Gi"}}

    def denied() -> bool:
        """The API server takes a moment to know a new LimitRange."""
        name = f"large-{len(names)}"
        names.append(name)
        ground.create_job(name, resourcesPerNode=resources)
        wait_for(
            "a sign", lambda: ground.pods(name) or ground.condition(name, "Stalled").get("status") == "True"
        )
        return not ground.pods(name)

    names: list[str] = []
    wait_for("the limit to hold", denied)
    told(ground, names[-1], "AdmissionDenied", f"{names[-1]}-prepare-0", "maximum memory usage per Container")
    assert ground.status(names[-1])["state"] == "Pending"
    ground.delete("limitranges", "small")
    ground.prepare(names[-1])
    cured(ground, names[-1])


def test_surfaces_an_evicted_pod(ground: Playground) -> None:
    ground.create_job("evicted", runPolicy__backoffLimit=0)
    ground.prepare("evicted")
    ground.train("evicted")
    pod = f"/api/v1/namespaces/{ground.namespace}/pods/evicted-0-1/status"
    status = {
        "phase": "Failed",
        "reason": "Evicted",
        "message": "The node was low on resource: memory.",
    }
    ground.api.request("PATCH", pod, {"status": status})
    restarted(ground, "evicted", "Evicted", "evicted-0-1", "low on resource: memory")
    ground.train("evicted", attempt=1)  # which the backoff limit of 0 does not count
    assert ground.status("evicted")["restarts"]["byClass"] == {"Infrastructure": 1}


def test_surfaces_a_lost_node(ground: Playground) -> None:
    ground.create_job("remote", runPolicy__backoffLimit=0)
    ground.prepare("remote")
    ground.wait_pods("remote", "remote-0-0", "remote-0-1")
    ground.bind("remote-0-1", node="far")
    ground.train("remote")
    pod = f"/api/v1/namespaces/{ground.namespace}/pods/remote-0-1"

    def ready(value: str) -> None:
        """What the node controller says of the pods of a node whose kubelet is silent, or is back."""
        condition = {"type": "Ready", "status": value, "lastTransitionTime": "2026-01-01T00:00:00Z"}
        ground.api.request("PATCH", f"{pod}/status", {"status": {"conditions": [condition]}})

    ready("False")
    told(ground, "remote", "NodeNotReporting", "Node far of pod remote-0-1")
    assert ground.status("remote")["state"] == "Running"
    ready("True")
    cured(ground, "remote")
    ready("False")
    ground.delete("pods", "remote-0-1")  # as the taint manager does after 30 s; no kubelet confirms it
    restarted(ground, "remote", "NodeLost", "Node far of pod remote-0-1 no longer reports")
    ground.confirm_gone("remote-0-1")  # which the operator does by force two minutes later
    ground.train("remote", attempt=1)
    assert ground.status("remote")["restarts"]["byClass"] == {"Infrastructure": 1}


def test_surfaces_a_missing_claim_whose_appearance_cures(ground: Playground) -> None:
    ground.create_job("claimless", storage={"claimName": "nowhere"})
    told(ground, "claimless", "ClaimNotFound", "'nowhere'")
    assert ground.pods("claimless") == {}
    claim = {
        "metadata": {"name": "nowhere"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    ground.create("persistentvolumeclaims", claim)
    ground.wait_pods("claimless", "claimless-prepare-0")
    cured(ground, "claimless")
    ground.delete_job("claimless")
    # The garbage collector looks for new kinds every 30 s.
    wait_for("the job's objects to go", lambda: not ground.children("claimless"), 90)
    assert [c["metadata"]["name"] for c in ground.objects("persistentvolumeclaims")] == ["nowhere"]


def test_surfaces_an_image_that_cannot_be_pulled(ground: Playground) -> None:
    ground.create_job("imageless", image="registry.test/nothing:v0")
    pod = "imageless-prepare-0"
    ground.wait_pods("imageless", pod)
    ground.cannot_start(pod, "ErrImagePull", "registry.test/nothing:v0: not found")
    told(ground, "imageless", "ImagePullBackOff", "registry.test/nothing:v0")
    ground.cannot_start(pod, "ImagePullBackOff", 'Back-off pulling image "registry.test/nothing:v0"')
    wait_for("the second message", lambda: "Back-off" in ground.condition("imageless", "Stalled")["message"])
    assert len([e for e in ground.events("imageless") if e["reason"] == "ImagePullBackOff"]) == 1
    assert set(ground.pods("imageless")) == {pod}
    ground.run(pod)
    cured(ground, "imageless")


def test_surfaces_pods_that_no_node_has_room_for(ground: Playground) -> None:
    ground.create_job("huge", resourcesPerNode={"requests": {"memory": "100Ti"}})
    ground.wait_pods("huge", "huge-prepare-0")
    ground.unschedulable("huge-prepare-0", "0/1 nodes are available: 1 Insufficient memory.")
    told(ground, "huge", "Unschedulable", "huge-prepare-0", "1 Insufficient memory")


def test_a_pod_that_finds_its_node_late_makes_no_noise(ground: Playground) -> None:
    ground.create_job("binding")
    ground.wait_pods("binding", "binding-prepare-0")
    ground.unschedulable("binding-prepare-0", "pod has unbound immediate PersistentVolumeClaims")
    ground.prepare("binding")
    ground.train("binding")
    assert [e["reason"] for e in ground.events("binding") if e["type"] == "Warning"] == []
