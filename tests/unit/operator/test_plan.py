"""plan() as tables: what it decides in each situation of a job's life."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from aurl_operator.core.actions import Create, Delete, DeleteJob
from aurl_operator.core.progress import ProgressReport
from unit.operator.builders import NODES, PREPARED, TRAINED, World, after, kinds, make_job, prepared, running


def test_the_first_visit_writes_all_conditions_and_creates_what_pods_need() -> None:
    world = World()
    decided = world.step()
    assert [a.kind for a in decided.actions if isinstance(a, Create)] == [
        "ConfigMap",
        "Service",
        "NetworkPolicy",
        "PersistentVolumeClaim",
    ]
    assert world.state == "Pending"
    types = {c["type"]: c["status"] for c in world.status["conditions"]}
    assert types == {
        "Succeeded": "Unknown",
        "Failed": "Unknown",
        "Running": "False",
        "DatasetReady": "Unknown",
        "Suspended": "False",
        "Reconciling": "True",
        "Stalled": "False",
    }
    assert all(c["observedGeneration"] == 1 for c in world.status["conditions"])


def test_happy_path() -> None:
    world = World()
    world.settle()
    assert list(world.pods) == ["bach-prepare-0"]
    assert world.state == "Preparing"
    world.run("bach-prepare-0")
    world.settle()
    assert world.state == "Preparing"
    world.succeed("bach-prepare-0", PREPARED)
    world.settle()
    assert set(world.pods) == {"bach-prepare-0", *NODES}
    assert world.state == "Starting"
    assert world.condition("DatasetReady") == ("True", "Prepared")
    assert "12 files, 2 dropped (a.mid, b.mid)" in world.message("DatasetReady")
    world.run(*NODES)
    world.settle()
    assert world.state == "Running"
    assert world.status["nodes"] == {"desired": 2, "ready": 2}
    world.succeed("bach-0-1", TRAINED)
    world.settle()
    assert world.state == "Running"
    world.succeed("bach-0-0", TRAINED)
    world.settle()
    assert world.condition("Succeeded")[0] == "True"
    assert world.condition("Failed")[0] == "False"
    assert world.condition("Running")[0] == "False"
    assert world.status["progress"]["step"] == 400
    assert world.service is None
    assert world.events == ["Preparing", "DatasetReady", "Starting", "Running", "Succeeded"]


def test_transition_times_are_kept_while_the_status_stays() -> None:
    world = running()
    before = {c["type"]: c["lastTransitionTime"] for c in world.status["conditions"]}
    world.now = after(60)
    world.fail("bach-0-0", 3)
    world.settle()
    changed = {c["type"] for c in world.status["conditions"] if c["lastTransitionTime"] != before[c["type"]]}
    assert changed == {"Running", "Reconciling"}


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (1, None, "Unknown"),
        (3, {"state": "Failed", "class": "Divergence"}, "Divergence"),
        (137, {"state": "Failed", "class": "OutOfMemory", "rank": 0}, "OutOfMemory"),
        (124, {"state": "Failed", "class": "Hang"}, "Hang"),
        (143, {"state": "Interrupted"}, "Infrastructure"),
        (1, {"state": "Failed", "class": "Nonsense"}, "Unknown"),
    ],
)
def test_a_failure_restarts_the_whole_gang(code: int, message: Any, expected: str) -> None:
    world = running()
    world.fail("bach-0-1", code, message)
    world.now = after(10)
    decided = world.step()
    assert decided.status_first
    assert decided.restarted_now == expected
    assert {a.name for a in decided.actions if isinstance(a, Delete)} == set(NODES)
    assert world.status["attempt"] == 1
    assert world.status["restarts"] == {"total": 1, "byClass": {expected: 1}, "consecutive": 1}
    assert world.state == "Restarting"
    # The survivor is still ending: nothing is created.
    world.settle()
    assert "bach-0-0" in world.pods
    assert not any(name.startswith("bach-1-") for name in world.pods)
    del world.pods["bach-0-0"]
    world.settle()
    assert {name for name in world.pods if "prepare" not in name} == {"bach-1-0", "bach-1-1"}


def test_a_user_error_fails_at_once_and_stops_the_survivor() -> None:
    world = running()
    world.fail("bach-0-1", 2, {"state": "Failed", "class": "UserError", "message": "steps < warmup"})
    decided = world.step()
    assert decided.failed_now == "UserError"
    assert world.state == "Failed"
    assert world.status["restarts"]["total"] == 0
    assert "steps < warmup" in world.message("Failed")
    assert [a.name for a in decided.actions if isinstance(a, Delete)] == ["bach-0-0", "bach-rdzv"]


def fail_after(world: World, seconds: float, saved: int) -> None:
    """Let the current attempt run for some time, save a checkpoint, and fail; start the next one."""
    attempt = world.status["attempt"]
    world.now += timedelta(seconds=seconds)
    world.report = ProgressReport({"step": saved, "lastCheckpoint": {"step": saved}}, attempt, world.now)
    world.settle()
    world.fail(f"bach-{attempt}-0", 3, {"state": "Failed", "class": "Divergence", "message": f"No {attempt}"})
    world.settle()
    world.pods = {n: p for n, p in world.pods.items() if "prepare" in n}
    world.now += timedelta(seconds=400)
    world.settle()
    if world.state != "Failed":
        world.run(f"bach-{attempt + 1}-0", f"bach-{attempt + 1}-1")
        world.settle()


@pytest.mark.parametrize(
    ("seconds", "grows", "renewed"),
    [(3600, True, True), (3599, True, False), (10**6, False, False)],
    ids=["an hour and a checkpoint", "less than an hour", "no checkpoint"],
)
@pytest.mark.parametrize("policy", [{"backoffLimit": 1}, {"restartLimits": {"divergence": 1}}])
def test_a_long_healthy_attempt_renews_the_limits(
    seconds: float, grows: bool, renewed: bool, policy: Any
) -> None:
    world = running(make_job(runPolicy=policy))
    for attempt in range(12):
        fail_after(world, seconds, 100 * (attempt + 1) if grows else 100)
        if world.state == "Failed":
            break
    assert (world.state == "Running") == renewed
    if renewed:
        assert world.status["restarts"]["byClass"] == {"Divergence": 12}
        assert world.status["restarts"]["forgiven"] == {"Divergence": 11}


def test_the_last_ten_failures_are_kept_newest_first() -> None:
    world = running(make_job(runPolicy={"backoffLimit": 100}))
    for attempt in range(12):
        fail_after(world, 1, attempt)
    messages = [failure["message"] for failure in world.status["failures"]]
    assert messages == [f"No {attempt}." for attempt in range(11, 1, -1)]
    assert world.status["failures"][0] == world.status["lastFailure"]


@pytest.mark.parametrize("limit", [0, 3])
def test_backoff_limit(limit: int) -> None:
    world = running(make_job(runPolicy={"backoffLimit": limit}))
    for attempt in range(limit):
        world.fail(f"bach-{attempt}-0", 3)
        world.settle()
        assert world.state == "Restarting"
        world.pods = {n: p for n, p in world.pods.items() if "prepare" in n}
        world.now += timedelta(seconds=400)
        world.settle()
        world.run(f"bach-{attempt + 1}-0", f"bach-{attempt + 1}-1")
        world.settle()
    world.fail(f"bach-{limit}-0", 3)
    world.settle()
    assert world.state == "Failed"
    assert world.condition("Failed") == ("True", "BackoffLimitExceeded")
    assert world.status["restarts"]["total"] == limit


def test_infrastructure_does_not_consume_the_backoff_limit_but_never_storms() -> None:
    world = running(make_job(runPolicy={"backoffLimit": 0}))
    created: list[float] = []
    for attempt in range(100):
        if world.state == "Failed":
            break
        world.ask_to_leave(f"bach-{attempt}-0")
        world.settle()
        world.pods = {n: p for n, p in world.pods.items() if "prepare" in n}
        began = world.now
        for _ in range(400):
            world.settle()
            if f"bach-{attempt + 1}-0" in world.pods or world.state == "Failed":
                break
            assert world.last.requeue_after is not None
            world.now += timedelta(seconds=world.last.requeue_after)
        created.append((world.now - began).total_seconds())
    assert world.condition("Failed") == ("True", "InfrastructureUnstable")
    assert world.status["restarts"]["total"] == 20
    assert created[0] == 0
    assert sum(created) > 3600


def test_a_checkpoint_in_between_ends_a_row_of_failures() -> None:
    world = running()
    for attempt in range(3):
        body = {"step": 50 * (attempt + 1), "lastCheckpoint": {"step": 50 * (attempt + 1)}}
        world.report = ProgressReport(body, attempt, world.now)
        world.settle()
        world.ask_to_leave(f"bach-{attempt}-0")
        world.settle()
        assert world.status["restarts"]["consecutive"] == 1
        world.pods = {n: p for n, p in world.pods.items() if "prepare" in n}
        world.settle()
        world.run(f"bach-{attempt + 1}-0", f"bach-{attempt + 1}-1")
        world.settle()
    assert world.status["restarts"]["total"] == 3


def test_a_vanished_worker_is_lost_but_one_never_created_is_made() -> None:
    world = prepared()
    del world.pods["bach-0-1"]
    world.settle()
    assert world.status["attempt"] == 1
    assert world.status["lastFailure"]["pod"] == "bach-0-1"
    half = World()
    half.settle()
    half.succeed("bach-prepare-0", PREPARED)
    decided = half.look()
    half.carry_out(next(a for a in decided.actions if isinstance(a, Create)))
    assert kinds(half) == ["Pod"]
    half.settle()
    assert half.status["attempt"] == 0
    assert set(half.pods) == {"bach-prepare-0", *NODES}


@pytest.mark.parametrize("stage", [prepared, running])
def test_a_lost_status_disturbs_no_pod(stage: Any) -> None:
    world = stage()
    before = {name: pod["metadata"]["uid"] for name, pod in world.pods.items()}
    del world.job["status"]
    world.settle()
    assert {name: pod["metadata"]["uid"] for name, pod in world.pods.items()} == before
    assert not any("deletionTimestamp" in pod["metadata"] for pod in world.pods.values())
    assert world.status["attempt"] == 0


def test_a_consequence_waits_for_its_cause() -> None:
    world = running()
    world.fail("bach-0-0", 1, {"state": "Failed", "class": "Infrastructure", "message": "peer closed"})
    assert world.look().restarted_now is None
    assert world.settle()["state"] == "Running"
    assert world.last.requeue_after is not None
    assert world.last.requeue_after <= 1
    world.now = after(1)
    world.fail("bach-0-1", 137, None, reason="OOMKilled")
    world.settle()
    failure = world.status["lastFailure"]
    assert (failure["class"], failure["pod"]) == ("OutOfMemory", "bach-0-1")
    assert "limits.memory" in failure["message"]


def test_a_consequence_without_a_cause_is_believed_after_a_while() -> None:
    world = running()
    world.fail("bach-0-0", 1, {"state": "Failed", "class": "Infrastructure", "message": "peer closed"})
    world.now = after(3)
    world.settle()
    assert world.status["restarts"]["byClass"] == {"Infrastructure": 1}


LOST_PEER = {"state": "Failed", "class": "Infrastructure", "rank": 1, "peerLost": True, "message": "Lost."}
OTHER_ACCOUNTS: list[tuple[int, Any, str]] = [
    (137, {"state": "Failed", "class": "Infrastructure", "rank": 0, "signal": "SIGKILL"}, "Infrastructure"),
    (137, None, "Killed"),
    (139, None, "Error"),
    (1, {"state": "Failed", "class": "Unknown", "rank": 0}, "Unknown"),
    (124, {"state": "Failed", "class": "Hang", "rank": 0}, "Hang"),
]


@pytest.mark.parametrize(("code", "message", "reason"), OTHER_ACCOUNTS)
def test_any_other_account_outranks_a_lost_connection(code: int, message: Any, reason: str) -> None:
    world = running()
    world.fail("bach-0-1", 1, LOST_PEER)
    assert world.look().restarted_now is None, "the account of the other pod is waited for"
    world.now = after(1)
    world.fail("bach-0-0", code, message)
    world.settle()
    failure = world.status["lastFailure"]
    assert (failure["pod"], failure["reason"]) == ("bach-0-0", reason)
    assert failure.get("rank", 0) == 0


@pytest.mark.parametrize(
    ("code", "message", "state", "expected"),
    [
        (137, None, {"reason": "OOMKilled"}, "OutOfMemory"),
        (2, {"state": "Failed", "class": "UserError"}, {}, "UserError"),
        (3, {"state": "Failed", "class": "Divergence"}, {}, "Divergence"),
        (1, LOST_PEER, {}, "Infrastructure"),
        (1, {"state": "Failed", "class": "Unknown"}, {}, "Infrastructure"),
    ],
)
def test_a_vanished_pod_explains_lost_connections_but_no_definite_cause(
    code: int, message: Any, state: Any, expected: str
) -> None:
    world = running()
    world.fail("bach-0-0", code, message, **state)
    del world.pods["bach-0-1"]
    world.settle()
    failure = world.status["lastFailure"]
    assert failure["class"] == expected
    assert failure["pod"] == ("bach-0-1" if expected == "Infrastructure" else "bach-0-0")


@pytest.mark.parametrize("sidecars", [False, True])
def test_the_deletion_of_a_pod_does_not_hide_that_it_ran_out_of_memory(sidecars: bool) -> None:
    world = running(sidecars=sidecars)
    world.fail("bach-0-1", 137, reason="OOMKilled")
    world.ask_to_leave("bach-0-1")
    world.settle()
    assert world.status["lastFailure"]["reason"] == "OOMKilled"
    other = running(sidecars=sidecars)
    other.fail("bach-0-1", 143)
    other.ask_to_leave("bach-0-1")
    other.settle()
    assert other.status["lastFailure"]["reason"] == "PodDeleted"


@pytest.mark.parametrize("since", [None, 0])
def test_a_failure_without_a_time_does_not_wait_for_ever(since: float | None) -> None:
    """After a reboot of its node, the kubelet knows neither how nor when a container ended."""
    world = running()
    world.fail("bach-0-1", 137, reason="ContainerStatusUnknown", finishedAt=None)
    if since is not None:
        ready = {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T12:00:00Z"}
        world.pods["bach-0-1"]["status"]["conditions"] = [ready]
        assert world.look().restarted_now is None
        world.now = after(2)
    world.settle()
    assert world.status["lastFailure"]["pod"] == "bach-0-1"
    assert world.status["attempt"] == 1


def test_a_lost_connection_without_another_account_is_believed_after_a_while() -> None:
    world = running()
    world.fail("bach-0-1", 1, LOST_PEER)
    world.now = after(2)
    world.settle()
    assert world.status["lastFailure"]["pod"] == "bach-0-1"
    assert world.status["restarts"]["byClass"] == {"Infrastructure": 1}


def test_a_pod_whose_node_is_lost_is_given_up_in_the_end() -> None:
    world = running()
    world.ask_to_leave("bach-0-0", grace=30)
    world.settle()
    assert [a for a in world.look().actions if isinstance(a, Delete)] == []
    world.now = after(30 + 121)
    assert next(a for a in world.look().actions if isinstance(a, Delete) and a.name == "bach-0-0").force


@pytest.mark.parametrize("ahead", [-600, 600])
def test_a_pod_gets_its_grace_by_the_servers_clock(ahead: int) -> None:
    world = running()
    world.clock_skew = timedelta(seconds=ahead)
    world.now = after(-ahead)
    world.ask_to_leave("bach-0-0", grace=30)
    deadline = after(30).strftime("%Y-%m-%dT%H:%M:%SZ")
    world.pods["bach-0-0"]["metadata"]["deletionTimestamp"] = deadline
    world.now = after(-ahead + 149)
    world.settle()
    assert not [a for a in world.look().actions if isinstance(a, Delete) and a.force]
    world.now = after(-ahead + 151)
    assert [a.name for a in world.look().actions if isinstance(a, Delete) and a.force] == ["bach-0-0"]


@pytest.mark.parametrize(
    ("phase", "ended", "removed"),
    [("Running", False, False), ("Failed", False, False), ("Running", True, False), ("Failed", True, True)],
    ids=["runs", "evicted and still running", "a container beside it runs", "has ended"],
)
def test_a_pod_that_has_ended_is_removed_without_waiting_for_the_kubelet(
    phase: str, ended: bool, removed: bool
) -> None:
    world = running()
    del world.pods["bach-0-1"]
    world.settle()
    survivor = world.pods["bach-0-0"]
    assert "deletionTimestamp" in survivor["metadata"]
    if ended:
        world.fail("bach-0-0", 143)
    survivor["status"]["phase"] = phase
    world.settle()
    assert ("bach-0-0" not in world.pods) == removed
    assert ({"bach-1-0", "bach-1-1"} <= set(world.pods)) == removed


@pytest.mark.parametrize(("evicted", "seconds"), [(False, 5), (True, 60 + 120)])
def test_a_failed_pod_whose_end_has_no_time_is_removed_after_a_short_while(
    evicted: bool, seconds: float
) -> None:
    world = running()
    del world.pods["bach-0-1"]
    world.settle()
    world.fail("bach-0-0", 0, finishedAt=None)
    world.pods["bach-0-0"]["status"] |= {"reason": "Evicted"} if evicted else {}
    world.settle()
    assert world.last.requeue_after == pytest.approx(seconds)
    world.now = after(seconds - 0.1)
    world.settle()
    assert "bach-0-0" in world.pods
    world.now = after(seconds)
    world.settle()
    assert {"bach-1-0", "bach-1-1"} <= set(world.pods)


@pytest.mark.parametrize(
    ("policy", "left"),
    [
        ("None", {"bach-prepare-0", "bach-0-0", "bach-0-1"}),
        ("Running", {"bach-prepare-0", "bach-0-1"}),
        ("All", set()),
    ],
)
def test_clean_pod_policy(policy: str, left: set[str]) -> None:
    world = running(make_job(runPolicy={"cleanPodPolicy": policy, "backoffLimit": 0}))
    world.fail("bach-0-1", 3)
    world.settle()
    assert world.state == "Failed"
    leaving = {n for n, p in world.pods.items() if "deletionTimestamp" in p["metadata"]}
    assert set(world.pods) - leaving == left


def test_a_finished_job_is_never_restarted() -> None:
    world = running()
    for name in NODES:
        world.succeed(name, TRAINED)
    world.settle()
    world.pods.clear()
    world.claim = world.config_map = None
    world.now = after(10**6)
    world.settle()
    assert world.state == "Succeeded"
    assert world.pods == {}
    assert kinds(world) == []


def test_time_to_live() -> None:
    world = running(make_job(runPolicy={"ttlSecondsAfterFinished": 60}))
    for name in NODES:
        world.succeed(name, TRAINED)
    world.settle()
    assert world.last.requeue_after == pytest.approx(60)
    world.now = after(61)
    assert any(isinstance(a, DeleteJob) for a in world.look().actions)


@pytest.mark.parametrize("seconds", [59, 61])
def test_active_deadline(seconds: int) -> None:
    world = running(make_job(runPolicy={"activeDeadlineSeconds": 60, "cleanPodPolicy": "None"}))
    world.now = after(seconds)
    world.settle()
    assert (world.state == "Failed") == (seconds > 60)
    if seconds > 60:
        assert world.condition("Failed") == ("True", "DeadlineExceeded")
        assert all("deletionTimestamp" in world.pods[n]["metadata"] for n in NODES)


def test_suspension_stops_the_deadline_and_resuming_is_a_new_attempt() -> None:
    world = running(make_job(runPolicy={"activeDeadlineSeconds": 60}))
    world.job["spec"]["suspend"] = True
    decided = world.step()
    assert decided.status_first
    world.settle()
    assert world.state == "Suspended"
    assert "startTime" not in world.status
    assert all("deletionTimestamp" in world.pods[n]["metadata"] for n in NODES)
    for name in NODES:
        del world.pods[name]
    world.now = after(1000)
    world.settle()
    assert world.state == "Suspended"
    assert world.last.requeue_after is None
    world.job["spec"]["suspend"] = False
    world.settle()
    assert set(world.pods) == {"bach-prepare-0", "bach-1-0", "bach-1-1"}
    assert world.status["restarts"]["total"] == 0
    assert world.status["startTime"] == "2026-01-01T12:16:40Z"


def test_a_suspended_job_may_be_changed_and_a_new_dataset_is_prepared() -> None:
    world = running()
    world.job["spec"]["suspend"] = True
    world.settle()
    for name in NODES:
        del world.pods[name]
    world.settle()
    world.job["spec"] |= {"suspend": False, "numNodes": 1, "dataset": {"source": "other"}}
    world.settle()
    assert set(world.pods) == {"bach-prepare-0", "bach-prepare-1"}
    world.succeed("bach-prepare-1", PREPARED)
    world.settle()
    assert "bach-1-0" in world.pods
    assert "bach-1-1" not in world.pods
    assert world.config_map is not None
    assert "other" in world.config_map["data"]["job.yaml"]


def test_a_running_job_goes_on_with_what_it_was_started_with() -> None:
    world = running()
    world.job["spec"]["training"] = {"steps": 5}
    world.job["metadata"]["generation"] = 2
    world.settle()
    assert world.state == "Running"
    assert world.condition("Stalled") == ("True", "ChangeRefused")
    assert "spec.training" in world.message("Stalled")
    assert world.status["observedGeneration"] == 2
    world.job["spec"] = {"numNodes": "three"}
    world.settle()
    assert world.state == "Running"
    assert world.condition("Stalled") == ("True", "InvalidSpec")
    world.fail("bach-0-0", 3)
    world.settle()
    assert world.status["attempt"] == 1


def test_somebody_elses_job_is_left_alone() -> None:
    world = World(make_job(managedBy="kueue.x-k8s.io/multikueue"))
    assert world.look().status is None
    assert world.look().actions == ()


def test_pods_of_an_older_job_with_the_same_name_are_ignored() -> None:
    old = prepared()
    world = World()
    world.job["metadata"]["uid"] = "another"
    world.pods = dict(old.pods)
    assert not any(isinstance(a, Delete) for a in world.look().actions)
    assert world.look().status is not None
