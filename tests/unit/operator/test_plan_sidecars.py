"""plan() as tables: pods to which the cluster has added containers are judged by their trainer."""

from __future__ import annotations

from typing import Any

import pytest

from aurl_operator.core.actions import Delete
from unit.operator.builders import NODES, PREPARED, TRAINED, World, after, make_job, prepared, running


def deleted(world: World) -> set[str]:
    """Return the names of the pods that the next plan deletes."""
    return {a.name for a in world.look().actions if isinstance(a, Delete) and a.kind == "Pod"}


def leaving(world: World) -> set[str]:
    """Return the names of the pods that are being deleted."""
    return {name for name, pod in world.pods.items() if "deletionTimestamp" in pod["metadata"]}


def test_a_prepare_pod_with_a_sidecar_is_deleted_before_workers_are_created() -> None:
    world = World()
    world.sidecars = True
    world.settle()
    world.run("bach-prepare-0")
    world.settle()
    world.succeed("bach-prepare-0", PREPARED)
    assert world.look().status_first, "the report is lost with the pod"
    world.settle()
    assert leaving(world) == set(world.pods) == {"bach-prepare-0"}
    assert world.condition("DatasetReady") == ("True", "Prepared")
    world.all_pods_end()
    world.settle()
    assert set(world.pods) == set(NODES)


@pytest.mark.parametrize("policy", ["None", "Running", "All"])
def test_a_gang_with_sidecars_succeeds_and_stops_them(policy: str) -> None:
    world = running(make_job(runPolicy={"cleanPodPolicy": policy}), sidecars=True)
    world.succeed("bach-0-1", TRAINED)
    world.settle()
    assert (world.state, leaving(world)) == ("Running", set())
    assert world.status["nodes"] == {"desired": 2, "ready": 1}
    world.succeed("bach-0-0", TRAINED)
    world.settle()
    assert world.state == "Succeeded"
    assert world.status["progress"]["step"] == 400
    assert leaving(world) == set(NODES)


def test_a_failed_worker_with_a_sidecar_restarts_the_gang() -> None:
    world = running(sidecars=True)
    world.fail("bach-0-1", 3)
    decided = world.step()
    assert decided.restarted_now == "Divergence"
    assert leaving(world) == set(NODES)
    world.all_pods_end()
    world.settle()
    assert set(world.pods) == {"bach-1-0", "bach-1-1"}


def test_a_sidecar_that_fails_after_the_trainer_succeeded_changes_nothing() -> None:
    world = running()
    for name in NODES:
        world.succeed(name, TRAINED)
        status = world.pods[name]["status"]
        status["phase"] = "Failed"
        status["containerStatuses"].append({"name": "proxy", "state": {"terminated": {"exitCode": 143}}})
    world.settle()
    assert world.state == "Succeeded"
    assert leaving(world) == set()


@pytest.mark.parametrize("policy", ["None", "Running"])
def test_the_kubelet_stops_native_sidecars_so_their_pods_keep_their_logs(policy: str) -> None:
    world = prepared(make_job(runPolicy={"cleanPodPolicy": policy}))
    native = {"name": "istio-proxy", "ready": True, "started": True, "state": {"running": {}}}
    world.pods["bach-prepare-0"]["status"] |= {"phase": "Running", "initContainerStatuses": [native]}
    world.run(*NODES)
    world.settle()
    for name in NODES:
        world.succeed(name, TRAINED)
        world.pods[name]["status"] |= {"phase": "Running", "initContainerStatuses": [native]}
    world.settle()
    assert world.state == "Succeeded"
    assert leaving(world) == set()


def test_a_sidecar_that_is_not_ready_says_nothing_about_the_node() -> None:
    world = running()
    proxy = {"name": "proxy", "ready": False, "state": {"running": {}}}
    trainer = {"name": "trainer", "ready": True, "state": {"running": {}}}
    world.pods["bach-0-1"]["status"] |= {
        "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [proxy, trainer],
    }
    world.settle()
    assert world.condition("Stalled")[0] == "False"
    assert world.status["nodes"]["ready"] == 2


def test_a_failed_init_container_is_named() -> None:
    world = prepared()
    ended = {"exitCode": 1, "reason": "Error", "message": "starting\npermission denied"}
    world.pods["bach-0-1"]["status"] = {
        "phase": "Failed",
        "initContainerStatuses": [{"name": "vault-agent-init", "state": {"terminated": ended}}],
        "containerStatuses": [{"name": "trainer", "state": {"waiting": {"reason": "PodInitializing"}}}],
    }
    world.settle()
    failure = world.status["lastFailure"]
    assert (failure["class"], failure["reason"]) == ("Infrastructure", "InitContainerFailed")
    assert "init container vault-agent-init exited with code 1: permission denied" in failure["message"]


@pytest.mark.parametrize("list_name", ["initContainerStatuses", "containerStatuses"])
@pytest.mark.parametrize("reason", ["ImagePullBackOff", "CrashLoopBackOff"])
def test_an_injected_container_that_cannot_start_is_named(list_name: str, reason: str) -> None:
    world = prepared()
    waiting = {"name": "proxy", "state": {"waiting": {"reason": reason, "message": "the detail"}}}
    status: dict[str, Any] = {
        "phase": "Pending",
        "containerStatuses": [{"name": "trainer", "state": {"waiting": {"reason": "PodInitializing"}}}],
    }
    status.setdefault(list_name, []).append(waiting)
    world.pods["bach-0-1"]["status"] = status
    world.settle()
    assert world.condition("Stalled") == ("True", reason)
    assert "Container proxy of pod bach-0-1 cannot start: the detail" in world.message("Stalled")


def test_an_init_container_that_takes_long_is_named() -> None:
    world = prepared()
    done = {"name": "istio-init", "ready": True, "started": False, "state": {"terminated": {"exitCode": 0}}}
    starting = {"name": "istio-proxy", "ready": False, "started": False, "state": {"running": {}}}
    world.pods["bach-0-1"]["status"] = {
        "phase": "Pending",
        "initContainerStatuses": [done, starting],
        "containerStatuses": [{"name": "trainer", "state": {"waiting": {"reason": "PodInitializing"}}}],
        "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T12:00:00Z"}
        ],
    }
    world.now = after(119)
    world.settle()
    assert world.condition("Stalled")[0] == "False"
    world.now = after(121)
    world.settle()
    assert world.condition("Stalled") == ("True", "InitContainerNotDone")
    assert "init container istio-proxy" in world.message("Stalled")


def test_a_placeholder_whose_sidecar_still_runs_is_not_created_twice() -> None:
    elastic = {"minNodes": 1, "maxNodes": 3, "growIntervalSeconds": 0}
    world = running(make_job(numNodes=2, elastic=elastic), sidecars=True)
    world.job["spec"]["numNodes"] = 3
    world.settle()
    world.run("bach-0-2")
    world.fail("bach-0-2", 1)
    world.settle()
    assert leaving(world) == {"bach-0-2"}
    world.all_pods_end()
    world.settle()
    assert leaving(world) == set()
    assert "bach-0-2" in world.pods
