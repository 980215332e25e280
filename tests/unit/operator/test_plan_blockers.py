"""plan() as tables: blockers are reported once, waited for, and cleared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aurl_operator.core.actions import Create, Delete, Refusal
from aurl_operator.core.progress import ProgressReport
from unit.operator.builders import NODES, NOW, OPTIONS, World, after, kinds, make_job, prepared, running


@pytest.mark.parametrize(
    ("reason", "reported"),
    [
        ("ImagePullBackOff", "ImagePullBackOff"),
        ("ErrImagePull", "ImagePullBackOff"),
        ("InvalidImageName", "InvalidImageName"),
        ("CreateContainerConfigError", "CreateContainerConfigError"),
        ("ContainerCreating", ""),
    ],
)
def test_a_pod_that_cannot_start(reason: str, reported: str) -> None:
    world = World()
    world.settle()
    world.wait_for_reason("bach-prepare-0", reason, "the detail")
    world.settle()
    if not reported:
        assert world.condition("Stalled")[0] == "False"
        return
    assert world.condition("Stalled") == ("True", reported)
    assert "the detail" in world.message("Stalled")
    assert world.state == "Preparing"
    assert world.events.count(reported) == 1
    world.run("bach-prepare-0")
    world.settle()
    assert world.condition("Stalled")[0] == "False"


def test_a_container_that_is_not_created_for_long_is_reported() -> None:
    world = prepared()
    world.wait_for_reason("bach-0-1", "ContainerCreating")
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T12:00:00Z"}
    world.pods["bach-0-1"]["status"]["conditions"] = [scheduled]
    world.now = after(119)
    world.settle()
    assert world.condition("Stalled")[0] == "False"
    assert world.last.requeue_after == pytest.approx(1)
    world.now = after(121)
    world.settle()
    assert world.condition("Stalled") == ("True", "ContainerNotCreated")


@pytest.mark.parametrize(
    ("since", "reported", "wake"),
    [
        (0, False, 5),
        (-4, False, 1),
        (-5, True, None),
        (2, False, 7),
        (3600, True, None),
        (None, True, None),
    ],
    ids=["fresh", "almost", "lasting", "skewed clock", "nonsense", "no time"],
)
def test_a_pod_without_a_node_is_reported_after_a_while(
    since: float | None, reported: bool, wake: float | None
) -> None:
    world = World()
    world.settle()
    world.cannot_be_scheduled("bach-prepare-0", None if since is None else after(since))
    world.settle()
    assert world.condition("Stalled") == (("True", "Unschedulable") if reported else ("False", "NotBlocked"))
    assert world.last.requeue_after == wake
    world.run("bach-prepare-0")
    world.settle()
    assert world.events.count("Unschedulable") == int(reported)


def test_a_namespace_that_is_being_deleted_makes_no_noise() -> None:
    world = running()
    before = world.status
    world.pods.clear()
    message = "forbidden: unable to create new content in namespace music because it is being terminated"
    world.refusals["bach-1-0"] = Refusal(403, message, NOW)
    decided = world.look()
    assert (decided.actions, decided.status, decided.events) == ((), None, ())
    assert world.status == before


@pytest.mark.parametrize("checkpoint", [None, 120])
def test_a_lost_claim_stalls_the_job_and_is_not_recreated(checkpoint: int | None) -> None:
    world = running()
    if checkpoint:
        body = {"step": 130, "totalSteps": 400, "lastCheckpoint": {"step": checkpoint}}
        world.report = ProgressReport(body, 0, NOW)
    assert world.claim is not None
    world.claim["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z"
    world.settle()
    assert (world.state, world.condition("Stalled")) == ("Running", ("True", "ClaimLost"))
    assert "is being deleted" in world.message("Stalled")
    world.claim = None
    world.fail("bach-0-0", 3)
    world.settle()
    world.pods.pop("bach-0-1")
    world.settle()
    assert (world.state, world.condition("Stalled")) == ("Restarting", ("True", "ClaimLost"))
    assert ("checkpoint of step 120" in world.message("Stalled")) == bool(checkpoint)
    assert set(world.pods) == {"bach-prepare-0"}
    assert world.claim is None
    assert world.last.requeue_after == 5
    assert world.events.count("ClaimLost") == 1
    world.claim = {"metadata": {"name": "bach-data", "uid": "restored"}}
    world.settle()
    assert world.condition("Stalled")[0] == "False"
    # Whether the dataset was restored with it, the preparation finds out.
    assert set(world.pods) == {"bach-prepare-0", "bach-prepare-1"}
    assert world.status["claimUid"] == "restored"


def test_a_claim_that_another_storage_replaced_is_not_missed() -> None:
    world = running()
    world.job["spec"] |= {"suspend": True, "storage": {"claimName": "mine"}}
    world.settle()
    for name in NODES:
        del world.pods[name]
    world.claim, world.named_claim = None, {"metadata": {"name": "mine"}}
    world.job["spec"]["suspend"] = False
    world.settle()
    assert world.condition("Stalled")[0] == "False"
    assert "claimUid" not in world.status
    assert set(world.pods) == {"bach-prepare-0", "bach-prepare-1"}


@pytest.mark.parametrize("wanted", [True, False])
def test_pods_wait_for_their_network_policy(wanted: bool) -> None:
    world = World(options=replace(OPTIONS, network_policy=wanted))
    world.refusals["bach-pods"] = Refusal(403, 'admission webhook "x" denied the request', NOW)
    world.settle()
    assert world.network_policy is None
    assert bool(world.pods) != wanted
    assert world.condition("Stalled") == (("True", "AdmissionDenied") if wanted else ("False", "NotBlocked"))


@pytest.mark.parametrize("code", [0, 403, 500])
def test_pods_that_may_not_be_deleted_are_reported_and_retried(code: int) -> None:
    world = running()
    pod = world.pods["bach-0-0"]
    world.refusals[f"delete {pod['metadata']['uid']}"] = Refusal(code, "the webhook is down", NOW)
    world.job["spec"]["suspend"] = True
    decided = world.step()
    assert world.state == "Suspended"
    assert world.condition("Stalled") == ("True", "DeleteFailed")
    assert "bach-0-0" in world.message("Stalled")
    assert "the webhook is down" in world.message("Stalled")
    assert [a.name for a in decided.actions if isinstance(a, Delete)] == ["bach-0-1"]
    world.now = after(2.1)
    world.settle()
    assert "deletionTimestamp" in pod["metadata"]


@pytest.mark.parametrize(("code", "retried"), [(500, ["bach-0-0"]), (403, ["bach-0-0", "bach-0-1"])])
def test_after_a_fault_of_the_server_one_request_is_tried(code: int, retried: list[str]) -> None:
    world = prepared()
    world.pods = {name: pod for name, pod in world.pods.items() if name not in NODES}
    world.job["status"]["launch"].pop("createdTime")
    for name in NODES:
        world.refusals[name] = Refusal(code, "the webhook is down", NOW)
    world.now = after(2.1)
    assert [a.name for a in world.look().actions if isinstance(a, Create)] == retried


def test_the_api_server_chooses_the_pause() -> None:
    world = World()
    world.step()
    world.refusals["bach-prepare-0"] = Refusal(429, "too many requests", NOW, retry_after=20)
    world.settle()
    assert world.last.requeue_after == pytest.approx(20)
    world.now = after(19)
    assert kinds(world) == []


def test_startup_deadline_counts_until_all_run_and_not_after() -> None:
    world = prepared(make_job(runPolicy={"startupDeadlineSeconds": 30}))
    world.run("bach-0-0")
    world.wait_for_reason("bach-0-1", "ImagePullBackOff", "gone")
    world.now = after(29)
    world.settle()
    assert world.state == "Starting"
    assert world.last.requeue_after == pytest.approx(1)
    world.now = after(31)
    world.settle()
    assert world.condition("Failed") == ("True", "StartupDeadlineExceeded")
    assert "gone" in world.message("Failed")
    well = running(make_job(runPolicy={"startupDeadlineSeconds": 30}))
    well.now = after(1000)
    well.settle()
    assert well.state == "Running"


@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [
        (403, "exceeded quota: q, requested: pods=1", "QuotaExceeded"),
        (403, 'admission webhook "x" denied the request', "AdmissionDenied"),
        (403, 'cannot create resource "pods" in API group', "OperatorForbidden"),
        (400, "admission webhook said no", "AdmissionDenied"),
        (409, "the name is taken", "NameConflict"),
        (404, 'namespaces "music" not found', "CreateFailed"),
        (429, "too many requests", "CreateFailed"),
        (500, 'failed calling webhook "x": connection refused', "CreateFailed"),
        (0, "POST /api/v1/namespaces/music/pods: TimeoutError", "CreateFailed"),
    ],
)
def test_a_refused_pod_is_reported_and_retried(code: int, message: str, reason: str) -> None:
    world = World()
    world.step()
    world.refusals["bach-prepare-0"] = Refusal(code, message, NOW)
    world.settle()
    assert world.condition("Stalled") == ("True", reason)
    assert world.pods == {}
    assert world.last.requeue_after is not None
    world.now = after(2.1)
    assert kinds(world) == ["Pod"]
