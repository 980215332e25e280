"""plan() as tables: how failures are classified, what they cost, and which nodes are avoided."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from aurl_operator.core.pods import without_nodes
from unit.operator.builders import World, after, make_job, running

KILLED: dict[str, Any] = {"state": "Failed", "class": "Infrastructure", "signal": "SIGKILL", "rank": 1}
NODE_AFFINITY = "requiredDuringSchedulingIgnoredDuringExecution"


def environment(pod: dict[str, Any]) -> dict[str, str]:
    return {e["name"]: e.get("value", "") for e in pod["spec"]["containers"][0]["env"]}


def excluded(pod: dict[str, Any]) -> list[list[str]]:
    """Nodes that each term of a pod's node affinity excludes; the API server accepts one per requirement."""
    required = pod["spec"].get("affinity", {}).get("nodeAffinity", {}).get(NODE_AFFINITY, {})
    terms = [term["matchFields"] for term in required.get("nodeSelectorTerms", [])]
    for requirement in (each for term in terms for each in term):
        assert (requirement["key"], requirement["operator"]) == ("metadata.name", "NotIn")
        assert len(requirement["values"]) == 1
    return [[name for each in term for name in each["values"]] for term in terms]


def fail_on(world: World, node: str, times: int, message: Any = None, code: int = 137) -> None:
    """Fail the second worker of this many attempts on a node; the first one runs elsewhere."""
    for _ in range(times):
        attempt = world.status["attempt"]
        world.place(**{f"bach_{attempt}_0": "good", f"bach_{attempt}_1": node})
        world.fail(f"bach-{attempt}-1", code, message or KILLED)
        world.now += timedelta(seconds=3)
        world.settle()
        world.all_pods_end()
        world.now += timedelta(seconds=61)
        world.settle()
        world.run(f"bach-{attempt + 1}-0", f"bach-{attempt + 1}-1")
        world.settle()


def test_a_node_that_failed_the_job_three_times_is_avoided() -> None:
    world = running()
    fail_on(world, "bad", 2)
    assert [entry["failures"] for entry in world.status["nodeFailures"]] == [2]
    assert excluded(world.pods["bach-2-0"]) == []
    fail_on(world, "bad", 1)
    assert excluded(world.pods["bach-3-0"]) == excluded(world.pods["bach-3-1"]) == [["bad"]]
    assert world.status["launch"]["avoidedNodes"] == ["bad"]
    assert world.events.count("NodesAvoided") == 1
    assert world.status["lastFailure"]["signal"] == 9


def test_one_hardware_failure_avoids_the_node_and_consumes_no_retry() -> None:
    world = running(make_job(runPolicy={"backoffLimit": 0, "restartLimits": {"infrastructure": 1}}))
    broken = {"state": "Failed", "class": "Hardware", "rank": 1, "message": "uncorrectable ECC error"}
    lost = {"state": "Failed", "class": "Infrastructure", "rank": 0, "peerLost": True, "message": "Lost."}
    world.fail("bach-0-0", 1, lost)
    fail_on(world, "bad", 1, broken, 1)
    assert excluded(world.pods["bach-1-0"]) == [["bad"]]
    assert world.status["restarts"]["byClass"] == {"Hardware": 1}
    assert world.status["lastFailure"]["rank"] == 1
    world.fail("bach-1-1", 1, broken)
    world.settle()
    assert world.condition("Failed") == ("True", "InfrastructureUnstable")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"state": "Interrupted"}, 143),
        ({"state": "Failed", "class": "OutOfMemory"}, 137),
        ({"state": "Failed", "class": "Infrastructure", "message": "lost its connection"}, 1),
        ({"state": "Failed", "class": "Hang"}, 124),
    ],
    ids=["drained", "out of memory", "lost a peer", "hang without a rank"],
)
def test_a_failure_that_says_nothing_about_the_node(message: Any, code: int) -> None:
    world = running(make_job(runPolicy={"backoffLimit": 10}))
    fail_on(world, "node-1", 4, message, code)
    assert "nodeFailures" not in world.status or world.status["nodeFailures"] == []
    assert excluded(world.pods["bach-4-0"]) == []


def test_a_node_is_trusted_again_after_a_while() -> None:
    world = running(make_job(runPolicy={"nodeAvoidance": {"afterFailures": 1, "seconds": 600}}))
    fail_on(world, "bad", 1)
    assert excluded(world.pods["bach-1-0"]) == [["bad"]]
    world.now += timedelta(seconds=600)
    fail_on(world, "other", 1)
    assert excluded(world.pods["bach-2-0"]) == [["other"]]
    assert [entry["node"] for entry in world.status["nodeFailures"]] == ["other"]


def test_the_number_of_avoided_nodes_is_bounded() -> None:
    world = running(make_job(runPolicy={"nodeAvoidance": {"afterFailures": 1, "maxNodes": 2}}))
    for node in ("a", "b", "c"):
        fail_on(world, node, 1)
    assert excluded(world.pods["bach-3-0"]) == [["b", "c"]]


def test_an_avoided_node_is_used_again_when_there_is_no_other() -> None:
    world = running(make_job(runPolicy={"nodeAvoidance": {"afterFailures": 1}}))
    fail_on(world, "only", 1)
    for name in ("bach-1-0", "bach-1-1"):
        world.cannot_be_scheduled(name, world.now)
    restarts = world.status["restarts"]
    world.settle()
    assert world.last.requeue_after is not None
    world.now += timedelta(seconds=29)
    world.settle()
    assert world.condition("Stalled") == ("True", "Unschedulable")
    world.now += timedelta(seconds=2)
    world.settle()
    world.all_pods_end()
    world.settle()
    assert excluded(world.pods["bach-2-0"]) == []
    assert world.events.count("AvoidedNodeReused") == 1
    assert world.status["restarts"] == restarts
    fail_on(world, "only", 1)
    assert excluded(world.pods["bach-3-0"]) == [], "a reused node is not avoided a second time"


def test_nodes_are_excluded_from_each_alternative_of_the_users_affinity() -> None:
    zone = {"key": "zone", "operator": "In", "values": ["a"]}
    exclusion = {"key": "metadata.name", "operator": "NotIn", "values": ["bad"]}
    overlay = {
        "podAntiAffinity": {"x": 1},
        "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [],
            NODE_AFFINITY: {"nodeSelectorTerms": [{"matchExpressions": [zone]}, {"matchFields": []}]},
        },
    }
    merged = without_nodes(overlay, ["bad"])
    assert merged["podAntiAffinity"] == {"x": 1}
    assert merged["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] == []
    assert merged["nodeAffinity"][NODE_AFFINITY]["nodeSelectorTerms"] == [
        {"matchExpressions": [zone], "matchFields": [exclusion]},
        {"matchFields": [exclusion]},
    ]
    assert without_nodes(overlay, []) == overlay
    assert without_nodes(overlay, ["no name", "", "x" * 254]) == overlay


def test_an_out_of_memory_restart_asks_for_a_smaller_micro_batch() -> None:
    world = running()
    assert environment(world.pods["bach-0-0"])["AURL_OUT_OF_MEMORY_RESTARTS"] == "0"
    fail_on(world, "n", 1, {"state": "Failed", "class": "OutOfMemory"})
    fail_on(world, "n", 1, {"state": "Failed", "class": "Divergence"}, 3)
    assert environment(world.pods["bach-2-1"])["AURL_OUT_OF_MEMORY_RESTARTS"] == "1"
    assert "AURL_OUT_OF_MEMORY_RESTARTS" not in environment(world.pods["bach-prepare-0"])


@pytest.mark.parametrize(
    ("limits", "failure_class", "code", "restarts", "reason"),
    [
        ({"outOfMemory": 1}, "OutOfMemory", 137, 1, "RestartLimitExceeded"),
        ({"divergence": 0}, "Divergence", 3, 0, "RestartLimitExceeded"),
        ({"hang": 2}, "Hang", 124, 2, "RestartLimitExceeded"),
        ({"hang": 9}, "Hang", 124, 3, "BackoffLimitExceeded"),
        ({"infrastructure": 2}, "Infrastructure", 1, 2, "InfrastructureUnstable"),
    ],
)
def test_each_class_of_failure_has_a_budget(
    limits: dict[str, int], failure_class: str, code: int, restarts: int, reason: str
) -> None:
    world = running(make_job(runPolicy={"restartLimits": limits}))
    message = {"state": "Failed", "class": failure_class}
    fail_on(world, "n", restarts, message, code)
    world.fail(f"bach-{restarts}-0", code, message)
    world.now += timedelta(seconds=3)
    world.settle()
    assert world.condition("Failed") == ("True", reason)
    assert world.status["restarts"]["total"] == restarts


def test_preemption_is_tolerated_without_limit_and_counts_against_no_node() -> None:
    world = running(make_job(runPolicy={"backoffLimit": 0, "restartLimits": {"infrastructure": 0}}))
    for attempt in range(25):
        name = f"bach-{attempt}-1"
        world.place(**{name.replace("-", "_"): "busy"})
        world.fail(name, 143, {"state": "Interrupted"})
        world.pods[name]["status"]["conditions"] = [
            {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
        ]
        world.settle()
        world.all_pods_end()
        world.now += timedelta(seconds=301)
        world.settle()
        world.run(f"bach-{attempt + 1}-0", f"bach-{attempt + 1}-1")
        world.settle()
    assert world.state == "Running"
    assert world.status["restarts"]["byClass"] == {"Preemption": 25}
    assert "higher priority" in world.status["lastFailure"]["message"]
    assert not world.status.get("nodeFailures")


@pytest.mark.parametrize(
    ("reason", "failure_class"),
    [("Evicted", "Infrastructure"), ("NodeLost", "Infrastructure"), ("Preempting", "Preemption")],
)
def test_reasons_that_older_servers_give_for_evicted_pods(reason: str, failure_class: str) -> None:
    world = running()
    world.pods["bach-0-0"]["status"] = {"phase": "Failed", "reason": reason, "message": "because of it."}
    world.settle()
    failure = world.status["lastFailure"]
    assert (failure["class"], failure["reason"]) == (failure_class, reason)
    assert failure["message"] == f"Pod bach-0-0 was stopped ({reason}): because of it."
    assert world.condition("Reconciling") == ("True", reason)
    assert "Restarting" in world.events


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ('Usage of EmptyDir volume "scratch" exceeds the limit "1Gi". ', "spec.podTemplate.volumes"),
        ('Usage of EmptyDir volume "shm" exceeds the limit "1Gi". ', "spec.resourcesPerNode.limits.memory"),
        (
            "Pod ephemeral local storage usage exceeds the total limit of containers 5Gi. ",
            "ephemeral-storage",
        ),
        ('Container trainer exceeded its local ephemeral storage limit "5Gi". ', "ephemeral-storage"),
    ],
)
def test_a_pod_over_its_own_limit_is_a_user_error(message: str, field: str) -> None:
    world = running()
    world.fail("bach-0-0", 143, {"state": "Interrupted"})
    world.pods["bach-0-0"]["status"] |= {"reason": "Evicted", "message": message}
    world.settle()
    failure = world.status["lastFailure"]
    assert (failure["class"], failure["reason"]) == ("UserError", "StorageLimitExceeded")
    assert message.strip(" .") in failure["message"]
    assert field in failure["message"]
    assert world.state == "Failed"


@pytest.mark.parametrize(
    ("message", "disruption"),
    [
        ("The node was low on resource: ephemeral-storage. Container trainer was using 5Gi.", None),
        ('Container proxy exceeded its local ephemeral storage limit "1Gi". ', None),
        ('Usage of EmptyDir volume "scratch" exceeds the limit "1Gi". ', "TerminationByKubelet"),
    ],
)
def test_a_pod_that_its_node_or_a_sidecar_ends_is_no_user_error(message: str, disruption: str | None) -> None:
    world = running()
    status: dict[str, Any] = {"phase": "Failed", "reason": "Evicted", "message": message}
    if disruption:
        status["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": disruption}]
    world.pods["bach-0-0"]["status"] = status
    world.settle()
    assert world.status["lastFailure"]["class"] == "Infrastructure"


def test_a_node_that_no_longer_reports_is_reported_before_its_pods_are_evicted() -> None:
    world = running()
    world.place(bach_0_1="far")
    status = world.pods["bach-0-1"]["status"]
    status["containerStatuses"] = [{"name": "trainer", "ready": True, "state": {"running": {}}}]
    world.settle()
    assert world.condition("Stalled")[0] == "False"
    status["conditions"] = [{"type": "Ready", "status": "False"}]
    world.now = after(5)
    world.settle()
    assert world.condition("Stalled") == ("True", "NodeNotReporting")
    assert "Node far of pod bach-0-1" in world.message("Stalled")
    assert world.state == "Running"
    status["conditions"] = [{"type": "Ready", "status": "True"}]
    world.settle()
    assert world.condition("Stalled")[0] == "False"
    # The eviction itself says nothing about the node, but its silence does.
    status["conditions"] = [{"type": "Ready", "status": "False"}]
    world.ask_to_leave("bach-0-1")
    world.settle()
    failure = world.status["lastFailure"]
    assert (failure["class"], failure["reason"], failure["node"]) == ("Infrastructure", "NodeLost", "far")
    assert [entry["node"] for entry in world.status["nodeFailures"]] == ["far"]


@pytest.mark.parametrize(
    ("overlay", "added"),
    [
        ([], 2),
        ([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}], 1),
        ([{"operator": "Exists"}], 0),
        ([{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}], 2),
    ],
)
def test_pods_of_a_lost_node_are_evicted_soon_unless_the_user_says_otherwise(
    overlay: list[dict[str, Any]], added: int
) -> None:
    world = running(make_job(podTemplate={"tolerations": overlay}))
    tolerations = world.pods["bach-0-0"]["spec"]["tolerations"]
    assert [t["tolerationSeconds"] for t in tolerations[len(overlay) :]] == [30] * added
    assert len(tolerations) == len(overlay) + added
