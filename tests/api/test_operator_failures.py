"""Failures on a real API server: class, node and message of each, and the next attempt."""

from __future__ import annotations

from typing import Any

import pytest

from api.api_harness import PREPARED, JobNamespace, environment
from api.launcher import launcher
from aurl_dev import crd
from aurl_dev.kube import Object
from aurl_dev.operator_process import OperatorProcess
from aurl_dev.waiting import wait_for

pytestmark = [pytest.mark.api, pytest.mark.usefixtures("operator")]


def running(ns: JobNamespace, job: str, nodes: int = 1, **changes: Any) -> None:
    """Create a job and run its workers, the first one on a node called far."""
    ns.create_job(job, numNodes=nodes, **changes)
    ns.prepare(job)
    ns.wait_pods(job, *(f"{job}-0-{index}" for index in range(nodes)))
    ns.bind(f"{job}-0-0", node="far")
    ns.train(job, nodes=nodes)


def message(**report: Any) -> Object:
    """Return a launcher's termination message; its checkpoint spares the next attempt the back-off."""
    return {"state": "Failed", "lastCheckpoint": {"step": 1}, **report}


#: How a worker ends, and the resulting status.lastFailure.
ENDS: dict[str, tuple[Object, Object]] = {
    "user": ({"exit_code": 2}, {"class": "UserError", "exitCode": 2}),
    "divergence": ({"exit_code": 3}, {"class": "Divergence", "exitCode": 3}),
    "memory": (
        {"exit_code": 137, "reason": "OOMKilled"},
        {"class": "OutOfMemory", "signal": 9, "reason": "OOMKilled"},
    ),
    "hang": ({"exit_code": 124}, {"class": "Hang", "exitCode": 124}),
    "killed": ({"exit_code": 137}, {"class": "Infrastructure", "signal": 9, "reason": "Killed"}),
    "unknown": ({"exit_code": 139}, {"class": "Unknown", "exitCode": 139, "signal": 11}),
    "reported": (
        {
            "exit_code": 1,
            "report": message(
                **{"class": "Divergence", "rank": 3, "signal": "SIGABRT", "step": 7, "exitCode": 134},
                exception="FloatingPointError",
                message="loss is NaN",
            ),
        },
        {
            "class": "Divergence",
            "rank": 3,
            "signal": 6,
            "exitCode": 134,
            "step": 7,
            "exception": "FloatingPointError",
            "message": "loss is NaN.",
        },
    ),
    "preempted": ({"pod": "Preempting"}, {"class": "Preemption", "reason": "Preempting"}),
}


def test_every_failure_of_a_worker_has_a_class_a_node_and_a_message(ns: JobNamespace) -> None:
    for job in ENDS:
        running(ns, job, runPolicy={"backoffLimit": 3})
    for job, (end, _) in ENDS.items():
        pod = f"{job}-0-0"
        if "pod" in end:
            status = {"phase": "Failed", "reason": end["pod"], "message": "Somebody else needs the room."}
            path = f"/api/v1/namespaces/{ns.namespace}/pods/{pod}/status"
            ns.api.request("PATCH", path, {"status": status})
        else:
            ns.fail(pod, **end)
    for job, (_, expected) in ENDS.items():
        failure = ns.failure(job)
        assert expected.items() <= failure.items(), (job, failure)
        assert (failure["node"], failure["pod"], failure["attempt"]) == ("far", f"{job}-0-0", 0)
        assert failure["message"].endswith(".")
        if job == "user":
            assert ns.state(job, "Failed")["restarts"]["total"] == 0
        else:
            ns.wait_pods(job, f"{job}-1-0")
            assert ns.status(job)["restarts"]["byClass"] == {expected["class"]: 1}
    # The trainer is informed and uses a smaller micro-batch.
    memory = environment(ns.pods("memory")["memory-1-0"])
    assert memory["AURL_OUT_OF_MEMORY_RESTARTS"] == "1"
    assert environment(ns.pods("hang")["hang-1-0"])["AURL_OUT_OF_MEMORY_RESTARTS"] == "0"


def test_a_sidecar_neither_hides_the_end_of_its_trainer_nor_outlives_it(ns: JobNamespace) -> None:
    def leave(pod: str) -> None:
        wait_for(f"{pod} to be deleted", lambda: "deletionTimestamp" in ns.pods("meshed")[pod]["metadata"])
        ns.confirm_gone(pod)

    ns.create_job("meshed", numNodes=1, runPolicy={"cleanPodPolicy": "None"})
    ns.wait_pods("meshed", "meshed-prepare-0")
    ns.bind("meshed-prepare-0")
    ns.succeed("meshed-prepare-0", PREPARED, sidecar=True)
    leave("meshed-prepare-0")
    ns.wait_pods("meshed", "meshed-0-0")
    ns.bind("meshed-0-0")
    ns.train("meshed", nodes=1)
    ns.fail("meshed-0-0", 3, sidecar=True)
    leave("meshed-0-0")
    ns.wait_pods("meshed", "meshed-1-0")
    ns.bind("meshed-1-0")
    ns.train("meshed", attempt=1, nodes=1)
    ns.succeed("meshed-1-0", {"state": "Succeeded"}, sidecar=True)
    assert ns.state("meshed", "Succeeded")["restarts"]["byClass"] == {"Divergence": 1}
    leave("meshed-1-0")


def test_a_node_that_failed_a_job_repeatedly_is_avoided(ns: JobNamespace) -> None:
    policy = {"nodeAvoidance": {"afterFailures": 2, "seconds": 3600}, "backoffLimit": 9}
    running(ns, "spotted", runPolicy=policy)
    report = message(**{"class": "Unknown"}, message="bus error")
    ns.fail("spotted-0-0", 1, report)
    ns.wait_pods("spotted", "spotted-1-0")
    assert "affinity" not in ns.pods("spotted")["spotted-1-0"]["spec"]
    ns.bind("spotted-1-0", node="far")
    ns.train("spotted", attempt=1, nodes=1)
    ns.fail("spotted-1-0", 1, {**report, "lastCheckpoint": {"step": 2}})
    pod = ns.wait_pods("spotted", "spotted-2-0")["spotted-2-0"]
    required = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = required["nodeSelectorTerms"]
    assert term["matchFields"] == [{"key": "metadata.name", "operator": "NotIn", "values": ["far"]}]
    status = ns.status("spotted")
    assert [(n["node"], n["failures"]) for n in status["nodeFailures"]] == [("far", 2)]
    assert "far" in ns.event("spotted", "NodesAvoided")["message"]


def test_a_rank_that_is_slower_than_its_peers_is_marked(ns: JobNamespace, operator: OperatorProcess) -> None:
    ns.create_job("uneven", numNodes=3, runPolicy={"stragglerFactor": 2})
    ns.prepare("uneven")
    ns.wait_pods("uneven", *(f"uneven-0-{index}" for index in range(3)))
    ns.bind("uneven-0-2", node="slow")
    answer: Object = {"attempt": 0, "state": "Training", "step": 10, "totalSteps": 400}
    answer["computeSeconds"] = [0.1, 0.11, 0.5]
    labels = frozenset({"job_namespace": ns.namespace, "job_name": "uneven"}.items())
    with launcher("127.0.0.16", answer):
        ns.run("uneven-0-0", ip="127.0.0.16")
        ns.run("uneven-0-1", ip="127.0.0.17")
        ns.run("uneven-0-2", ip="127.0.0.18")
        (slow,) = wait_for("the straggler to be marked", lambda: ns.status("uneven").get("stragglers"))
        assert (slow["rank"], slow["node"], slow["slowdown"]) == (2, "slow", 4.8)
        metric = ("aurl_operator_job_stragglers", labels)
        wait_for("the metric", lambda: operator.metrics().get(metric) == 1)
        assert "Rank 2 on node slow" in ns.event("uneven", "Straggler")["message"]
        answer |= {"step": 20, "computeSeconds": [0.1, 0.11, 0.12]}
        wait_for("the mark to be removed", lambda: not ns.status("uneven").get("stragglers"))
        wait_for("the metric to fall", lambda: operator.metrics().get(metric) == 0)


@pytest.mark.parametrize(
    ("gangs", "group", "version", "body", "scheduler"),
    [
        (
            {"provider": "SchedulerPlugins", "scheduleTimeoutSeconds": 60},
            "scheduling.x-k8s.io",
            "v1alpha1",
            {"minMember": 2, "scheduleTimeoutSeconds": 60},
            "scheduler-plugins-scheduler",
        ),
        ({"provider": "Kueue", "queue": "team"}, None, None, None, "default-scheduler"),
    ],
    ids=["SchedulerPlugins", "Kueue"],
)
def test_objects_for_other_gang_schedulers(
    ns: JobNamespace,
    gangs: Object,
    group: str | None,
    version: str | None,
    body: Object | None,
    scheduler: str,
) -> None:
    """For Volcano see test_conformance.py."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    if group:
        names = {"kind": "PodGroup", "plural": "podgroups", "singular": "podgroup"}
        served = {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}
        metadata = {
            "name": f"podgroups.{group}",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        }
        spec = {"group": group, "scope": "Namespaced", "names": names, "versions": [served]}
        definition: Object = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
        ns.api.request("POST", crd.COLLECTION, {**definition, "metadata": metadata, "spec": spec})
    try:
        ns.create_job("group", gangScheduling=gangs)
        ns.prepare("group")
        ns.train("group")
        pods = [ns.pods("group")[f"group-0-{index}"] for index in range(2)]
        for pod in pods:
            assert pod["spec"]["schedulerName"] == scheduler
            labels, annotations = pod["metadata"]["labels"], pod["metadata"]["annotations"]
            if group:
                assert labels["scheduling.x-k8s.io/pod-group"] == "group-0"
            else:
                assert labels["kueue.x-k8s.io/queue-name"] == "team"
                assert labels["kueue.x-k8s.io/pod-group-name"] == "group-0"
                assert annotations["kueue.x-k8s.io/pod-group-total-count"] == "2"
                assert annotations["kueue.x-k8s.io/retriable-in-group"] == "false"
        if group:
            path = f"/apis/{group}/{version}/namespaces/{ns.namespace}/podgroups"
            (made,) = ns.api.get(path)["items"]
            assert (made["metadata"]["name"], made["spec"]) == ("group-0", body)
        else:
            prepare = ns.pods("group")["group-prepare-0"]["metadata"]["labels"]
            assert prepare["kueue.x-k8s.io/queue-name"] == "team"
            assert "kueue.x-k8s.io/pod-group-name" not in prepare
    finally:
        if group:
            ns.api.delete(f"{crd.COLLECTION}/podgroups.{group}")
