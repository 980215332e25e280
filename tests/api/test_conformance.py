"""Promises of other training operators, one test each: `pytest --collect-only -k conformance`.

The list comes from the test suites and issue trackers of PyTorchJob, TrainJob, JobSet and similar projects.
The same command also lists two tests elsewhere: a silently dead watch (test_operator_faults.py) and the
immutable managedBy (test_webhook.py).
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, get_args

import pytest

from api.api_harness import JOB, TRAINED, JobNamespace, environment
from api.launcher import launcher
from aurl_dev import crd
from aurl_dev.cluster.api_server import ApiServer
from aurl_dev.kube import ApiError
from aurl_dev.operator_process import OperatorProcess
from aurl_dev.waiting import wait_for
from aurl_operator.api.status import State

pytestmark = [pytest.mark.api, pytest.mark.usefixtures("operator")]
DIVERGED = {"state": "Failed", "class": "Divergence", "message": "loss is NaN"}


def trained(ns: JobNamespace, job: str, attempt: int = 0, nodes: int = 2) -> None:
    """Let all workers of an attempt succeed."""
    for index in range(nodes):
        ns.succeed(f"{job}-{attempt}-{index}", TRAINED)
    ns.state(job, "Succeeded")


def running(ns: JobNamespace, job: str, nodes: int = 2, **changes: Any) -> None:
    """Create a job and run its workers."""
    ns.create_job(job, numNodes=nodes, **changes)
    ns.prepare(job)
    ns.train(job, nodes=nodes)


def test_creates_pods_and_services_with_the_right_env_and_owner_references(ns: JobNamespace) -> None:
    uid = ns.create_job("made", numNodes=2, numProcPerNode=3)["metadata"]["uid"]
    ns.prepare("made")
    pods = ns.wait_pods("made", "made-0-0", "made-0-1")
    (service,) = [s for s in ns.objects("services") if s["metadata"]["name"] == "made-rdzv"]
    for index in range(2):
        variables = environment(pods[f"made-0-{index}"])
        assert variables["AURL_RDZV_ENDPOINT"] == f"{service['spec']['clusterIP']}:29400"
        assert (variables["AURL_NODE_RANK"], variables["AURL_NUM_NODES"]) == (str(index), "2")
        assert variables["AURL_NPROC_PER_NODE"] == "3"
    for owned in (service, *pods.values()):
        (owner,) = owned["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (uid, True)


def test_created_suspended_makes_no_pods(ns: JobNamespace) -> None:
    ns.create_job("asleep", suspend=True)
    assert "startTime" not in ns.state("asleep", "Suspended")
    assert ns.children("asleep") == []


def test_suspend_deletes_pods_and_clears_start_time_and_resume_continues_from_the_checkpoint(
    ns: JobNamespace,
) -> None:
    ns.create_job("paused")
    ns.prepare("paused")
    ns.train("paused")
    assert ns.status("paused")["startTime"]
    ns.patch_job("paused", {"suspend": True})
    ns.state("paused", "Suspended")
    ns.wait_pods("paused")
    assert "startTime" not in ns.status("paused")
    ns.patch_job("paused", {"suspend": False})
    ns.train("paused", attempt=1)  # no preparation: the ranks find the checkpoint on the same volume
    status = ns.status("paused")
    assert (status["restarts"]["total"], status["attempt"]) == (0, 1)
    volumes = {v["name"]: v for v in ns.pods("paused")["paused-1-0"]["spec"]["volumes"]}
    assert volumes["data"]["persistentVolumeClaim"]["claimName"] == "paused-data"


def test_external_managed_by_is_untouched_and_immutable(ns: JobNamespace) -> None:
    ns.create_job("foreign", managedBy="kueue.x-k8s.io/multikueue")
    ns.create_job("ours")
    ns.state("ours", "Preparing")
    assert ns.status("foreign") == {}
    assert ns.children("foreign") == []
    # Servers with CEL rules reject a change.
    assert "managedBy cannot be changed after creation" in crd.FILE.read_text()


@pytest.mark.parametrize(
    ("limit", "policy", "left"), [(0, "All", set()), (3, "None", {"limited-3-0", "limited-3-1"})]
)
def test_backoff_limit_exceeded_respects_clean_pod_policy(
    ns: JobNamespace, limit: int, policy: str, left: set[str]
) -> None:
    report = {**DIVERGED, "lastCheckpoint": {"step": 1}}
    ns.create_job("limited", runPolicy={"backoffLimit": limit, "cleanPodPolicy": policy})
    ns.prepare("limited")
    for attempt in range(limit + 1):
        ns.train("limited", attempt=attempt)
        report["lastCheckpoint"] = {"step": attempt + 1}  # so that restarts need no back-off
        ns.fail(f"limited-{attempt}-0", 3, report)
    status = ns.state("limited", "Failed")
    assert status["restarts"]["total"] == limit
    assert ns.condition("limited", "Failed")["reason"] == "BackoffLimitExceeded"
    workers = [name for name in ns.pods("limited") if "prepare" not in name]
    wait_for("the clean-up", lambda: {n for n in ns.pods("limited") if "prepare" not in n} == left, 10)
    assert set(workers) >= left


def test_active_deadline(ns: JobNamespace) -> None:
    running(ns, "slow", runPolicy={"activeDeadlineSeconds": 3})
    ns.state("slow", "Failed")
    assert ns.condition("slow", "Failed")["reason"] == "DeadlineExceeded"
    ns.wait_pods("slow")


def test_deadline_neither_starts_nor_runs_while_suspended(ns: JobNamespace) -> None:
    ns.create_job("patient", suspend=True, runPolicy={"activeDeadlineSeconds": 2})
    ns.create_job("clock", numNodes=1, runPolicy={"activeDeadlineSeconds": 2})
    # When the other job's deadline has passed, so would that of the suspended job.
    ns.state("clock", "Failed")
    ns.patch_job("patient", {"managedBy": None})  # any change triggers a reconcile
    assert ns.status("patient")["state"] == "Suspended"
    ns.patch_job("patient", {"suspend": False, "runPolicy": {"activeDeadlineSeconds": 3600}})
    ns.prepare("patient")
    ns.train("patient")


@pytest.mark.parametrize(
    ("nodes", "procs", "elastic"),
    [
        (1, 1, None),
        (2, 2, None),
        (2, 1, {"minNodes": 1, "maxNodes": 3}),
        (3, 2, {"minNodes": 3, "maxNodes": 3}),
    ],
)
def test_elastic_env_combinations(
    ns: JobNamespace, nodes: int, procs: int, elastic: dict[str, int] | None
) -> None:
    ns.create_job("combo", numNodes=nodes, numProcPerNode=procs, elastic=elastic)
    ns.prepare("combo")
    pods = ns.wait_pods("combo", *(f"combo-0-{index}" for index in range(nodes)))
    for index in range(nodes):
        pod = pods[f"combo-0-{index}"]
        variables = environment(pod)
        assert variables["AURL_NODE_RANK"] == str(index)
        assert (variables["AURL_NUM_NODES"], variables["AURL_NPROC_PER_NODE"]) == (str(nodes), str(procs))
        assert pod["metadata"]["labels"]["aurl.ai/num-nodes"] == str(nodes)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("Upper", {}), ("dotted.name", {}), ("a" * 51, {}), ("fine", {"image": ""}), ("fine", {"numNodes": 0})],
    ids=["upper case", "dots", "too long", "empty image", "no workers"],
)
def test_rejects_a_bad_dns_name_an_empty_image_and_zero_workers(
    ns: JobNamespace, name: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(ApiError) as refused:
        ns.create_job(name, **changes)
    assert refused.value.code == 422


def test_complete_and_failed_conditions(ns: JobNamespace) -> None:
    running(ns, "good", nodes=1)
    running(ns, "bad", nodes=1)
    trained(ns, "good", nodes=1)
    ns.fail("bad-0-0", 2, {"state": "Failed", "class": "UserError", "message": "no such key"})
    ns.state("bad", "Failed")
    conditions = {
        job: tuple(ns.condition(job, kind)["status"] for kind in ("Succeeded", "Failed", "Running"))
        for job in ("good", "bad")
    }
    assert conditions == {"good": ("True", "False", "False"), "bad": ("False", "True", "False")}
    assert "no such key" in ns.condition("bad", "Failed")["message"]


def test_termination_grace_period_propagates(ns: JobNamespace) -> None:
    ns.create_job("graceful", numNodes=1, runPolicy={"terminationGracePeriodSeconds": 77})
    ns.prepare("graceful")
    pod = ns.wait_pods("graceful", "graceful-0-0")["graceful-0-0"]
    assert pod["spec"]["terminationGracePeriodSeconds"] == 77
    assert environment(pod)["AURL_GRACE_SECONDS"] == "77"


def test_progress_is_updated_kept_when_empty_and_rejected_beyond_the_end(
    ns: JobNamespace,
) -> None:
    ns.create_job("reported", numNodes=1)
    ns.prepare("reported")
    ns.wait_pods("reported", "reported-0-0")
    answer: dict[str, Any] = {"attempt": 0, "state": "Training", "step": 10, "totalSteps": 40, "loss": 3.0}

    def step(wanted: int, loss: float) -> None:
        def look() -> bool:
            progress = ns.status("reported").get("progress") or {}
            return (progress.get("step"), progress.get("loss")) == (wanted, loss)

        wait_for(f"step {wanted}", look)

    with launcher("127.0.0.14", answer):
        ns.run("reported-0-0", ip="127.0.0.14")
        step(10, 3.0)
        answer |= {"step": 20, "loss": 2.5}
        step(20, 2.5)
        answer["loss"] = None
        answer["lastCheckpoint"] = {"step": 20, "path": "x"}
        wait_for(
            "the checkpoint", lambda: (ns.status("reported").get("lastCheckpoint") or {}).get("step") == 20
        )
        step(20, 2.5)
        answer |= {"step": 41, "lastCheckpoint": {"step": 21, "path": "x"}}
        wait_for("the checkpoint", lambda: ns.status("reported")["lastCheckpoint"]["step"] == 21)
        step(20, 2.5)
        assert ns.status("reported")["progress"]["percentage"] == 50


def test_succeeds_after_one_failure(ns: JobNamespace) -> None:
    running(ns, "tough", nodes=1, runPolicy={"backoffLimit": 1})
    ns.fail("tough-0-0", 3, DIVERGED)
    ns.train("tough", attempt=1, nodes=1)
    trained(ns, "tough", attempt=1, nodes=1)
    assert ns.status("tough")["restarts"]["byClass"] == {"Divergence": 1}


def test_old_pods_are_gone_before_new_ones_are_created(ns: JobNamespace) -> None:
    ns.create_job("gang", runPolicy__backoffLimit=1)
    ns.prepare("gang")
    ns.wait_pods("gang", "gang-0-0", "gang-0-1")
    ns.bind("gang-0-0")
    ns.bind("gang-0-1")
    ns.train("gang")
    report = {
        "state": "Failed",
        "class": "Divergence",
        "rank": 1,
        "exitCode": 3,
        "message": "loss is NaN at step 7",
    }
    ns.fail("gang-0-1", 3, report)
    status = ns.state("gang", "Restarting")
    assert status["attempt"] == 1
    assert status["restarts"] == {"total": 1, "byClass": {"Divergence": 1}, "consecutive": 1}
    failure = status["lastFailure"]
    assert (failure["class"], failure["rank"], failure["pod"]) == ("Divergence", 1, "gang-0-1")
    assert "NaN" in failure["message"]
    # The survivor is deleted; while it still saves its work, no new pod may exist.
    pods = ns.wait_pods("gang", "gang-0-0")
    assert "deletionTimestamp" in pods["gang-0-0"]["metadata"]
    assert set(pods) == {"gang-prepare-0", "gang-0-0"}
    ns.confirm_gone("gang-0-0")
    pods = ns.wait_pods("gang", "gang-1-0", "gang-1-1")
    assert environment(pods["gang-1-0"])["AURL_ATTEMPT"] == "1"
    assert "NaN" in ns.event("gang", "Restarting")["message"]


def test_fails_after_max_restarts(ns: JobNamespace) -> None:
    running(ns, "spent", runPolicy={"backoffLimit": 1})
    ns.fail("spent-0-1", 3, DIVERGED)
    ns.train("spent", attempt=1)
    ns.fail("spent-1-0", 3, DIVERGED)
    status = ns.state("spent", "Failed")
    assert ns.condition("spent", "Failed")["reason"] == "BackoffLimitExceeded"
    assert status["restarts"]["total"] == 1
    wait_for("the survivor to be deleted", lambda: set(ns.pods("spent")) == {"spent-1-0", "spent-prepare-0"})
    assert "NaN" in ns.event("spent", "BackoffLimitExceeded")["message"]


def test_a_deleted_service_or_pod_is_recreated(ns: JobNamespace) -> None:
    running(ns, "mended", runPolicy={"backoffLimit": 0})
    before = {s["metadata"]["name"]: s["metadata"]["uid"] for s in ns.objects("services")}
    ns.delete("services", "mended-rdzv")

    def again() -> bool:
        now = {s["metadata"]["name"]: s["metadata"]["uid"] for s in ns.objects("services")}
        return bool(now.get("mended-rdzv", before["mended-rdzv"]) != before["mended-rdzv"])

    wait_for("the Service to be recreated", again)
    ns.delete("pods", "mended-0-1")
    ns.train("mended", attempt=1)
    assert ns.status("mended")["restarts"]["byClass"] == {"Infrastructure": 1}


def test_the_same_owner_name_with_another_uid_is_ignored(ns: JobNamespace) -> None:
    owner = {"apiVersion": "aurl.ai/v1alpha1", "kind": "AurlTrainingJob", "name": "twin", "controller": True}
    labels = {"aurl.ai/job-name": "twin", "aurl.ai/role": "prepare", "aurl.ai/attempt": "0"}
    old: dict[str, Any] = {
        "metadata": {
            "name": "twin-prepare-0",
            "labels": {**labels, "aurl.ai/replica-index": "0", "aurl.ai/job-uid": "dead"},
            "ownerReferences": [{**owner, "uid": "00000000-0000-0000-0000-000000000000"}],
            "finalizers": ["test.aurl.ai/hold"],
        },
        "spec": {
            "automountServiceAccountToken": False,
            "containers": [{"name": "trainer", "image": "x"}],
        },
    }
    uid = ns.create("pods", old)["metadata"]["uid"]
    ns.create_job("twin", numNodes=1)
    assert "twin-prepare-0" in ns.stalled("twin", "NameConflict")["message"]
    assert ns.pods("twin")["twin-prepare-0"]["metadata"]["uid"] == uid
    path = f"/api/v1/namespaces/{ns.namespace}/pods/twin-prepare-0"
    ns.api.request("PATCH", path, {"metadata": {"finalizers": []}})
    ns.api.delete(path)

    def ours() -> bool:
        found = ns.pods("twin").get("twin-prepare-0")
        return bool(found and found["metadata"]["uid"] != uid)

    wait_for("the job's own pod", ours)


def test_generate_name(ns: JobNamespace) -> None:
    jobs = f"/apis/aurl.ai/v1alpha1/namespaces/{ns.namespace}/aurltrainingjobs"
    name = ns.api.request("POST", jobs, {**JOB, "metadata": {"generateName": "any-"}})["metadata"]["name"]
    assert name.startswith("any-")
    ns.prepare(name)
    ns.train(name)


def test_unschedulable_with_a_schedule_timeout_releases_the_gang(ns: JobNamespace) -> None:
    ns.create_job("halves", gangScheduling={"scheduleTimeoutSeconds": 1})
    ns.prepare("halves")
    ns.wait_pods("halves", "halves-0-0", "halves-0-1")
    ns.bind("halves-0-0")
    ns.unschedulable("halves-0-1", "0/1 nodes are available: 1 Insufficient cpu.")
    assert "1 of 2 pods" in ns.stalled("halves", "GangReleased")["message"]
    ns.confirm_gone("halves-0-0")
    ns.wait_pods("halves")
    ns.event("halves", "GangReleased")
    status = ns.status("halves")
    assert (status["restarts"]["total"], status["attempt"], status["scheduling"]["releases"]) == (0, 1, 1)


def test_two_jobs_that_each_hold_half_of_the_capacity_both_succeed_in_the_end(ns: JobNamespace) -> None:
    """A node for two pods, and a scheduler that places the pod that has waited longest."""
    jobs = ("left", "right")
    for job in jobs:
        ns.create_job(job, gangScheduling={"scheduleTimeoutSeconds": 1})
        ns.prepare(job)
        ns.wait_pods(job, f"{job}-0-0", f"{job}-0-1")
        ns.bind(f"{job}-0-0")

    def take_a_turn() -> bool:
        pods = {job: [p for n, p in ns.pods(job).items() if "-prepare-" not in n] for job in jobs}
        workers = [pod for each in pods.values() for pod in each]
        held = [
            pod for pod in workers if pod["spec"].get("nodeName") and pod["status"]["phase"] != "Succeeded"
        ]
        for pod in held:
            name = pod["metadata"]["name"]
            if "deletionTimestamp" in pod["metadata"]:
                ns.confirm_gone(name)
            elif pod["status"]["phase"] == "Pending":
                ns.run(name)
        waiting = [pod for pod in workers if not pod["spec"].get("nodeName")]
        waiting.sort(key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))
        for pod in waiting[: 2 - len(held)]:
            with contextlib.suppress(ApiError):  # released meanwhile
                ns.bind(pod["metadata"]["name"])
        states = [ns.status(job).get("state") for job in jobs]
        for job, state in zip(jobs, states, strict=True):
            if state == "Running":
                for pod in pods[job]:
                    ns.succeed(pod["metadata"]["name"], TRAINED)
        return states == ["Succeeded", "Succeeded"]

    wait_for("both jobs to succeed", take_a_turn, 120)
    for job in jobs:
        assert ns.event(job, "GangReleased")
        assert ns.status(job)["restarts"]["total"] == 0


def test_scale_up_down_and_to_the_bounds(ns: JobNamespace) -> None:
    elastic = {"minNodes": 1, "maxNodes": 3}
    running(ns, "scaled", elastic=elastic)
    path = f"/apis/aurl.ai/v1alpha1/namespaces/{ns.namespace}/aurltrainingjobs/scaled/scale"
    scale = ns.api.get(path)  # what kubectl scale and an autoscaler read and write
    assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (2, 2)
    assert "aurl.ai/role=worker" in scale["status"]["selector"]

    def to(nodes: int) -> None:
        ns.api.request("PATCH", path, {"spec": {"replicas": nodes}})

    to(3)
    ns.wait_pods("scaled", "scaled-0-0", "scaled-0-1", "scaled-0-2")
    assert ns.pods("scaled")["scaled-0-2"]["metadata"]["labels"]["aurl.ai/role"] == "placeholder"
    ns.bind("scaled-0-2")
    ns.wait_pods("scaled", "scaled-0-2")  # deleted; gone when the kubelet reports its end
    ns.confirm_gone("scaled-0-2")
    ns.train("scaled", attempt=1, nodes=3)
    to(1)
    ns.train("scaled", attempt=2, nodes=1)
    to(4)
    assert "spec.numNodes: is 4" in ns.stalled("scaled", "InvalidSpec")["message"]
    assert ns.status("scaled")["replicas"] == 1
    assert ns.status("scaled")["restarts"]["total"] == 0


def test_lost_capacity_that_does_not_return_shrinks_an_elastic_job(ns: JobNamespace) -> None:
    ns.create_job("shrunk", elastic={"minNodes": 1, "maxNodes": 2, "shrinkAfterSeconds": 1})
    ns.prepare("shrunk")
    ns.wait_pods("shrunk", "shrunk-0-0", "shrunk-0-1")
    ns.bind("shrunk-0-0")
    ns.wait_pods("shrunk", "shrunk-0-0")
    ns.confirm_gone("shrunk-0-0")
    ns.train("shrunk", attempt=1, nodes=1)
    status = ns.status("shrunk")
    assert (status["elasticNodes"], status["replicas"], status["restarts"]["total"]) == (1, 1, 0)
    assert environment(ns.pods("shrunk")["shrunk-1-0"])["AURL_NUM_NODES"] == "1"
    assert ns.event("shrunk", "Resized")["type"] == "Normal"


def test_retains_failed_pods_on_the_last_retry(ns: JobNamespace) -> None:
    running(ns, "kept", runPolicy={"backoffLimit": 0})
    ns.fail("kept-0-1", 3, DIVERGED)
    ns.state("kept", "Failed")
    ns.wait_pods("kept", "kept-0-1")
    ended = ns.pods("kept")["kept-0-1"]["status"]["containerStatuses"][0]["state"]["terminated"]
    assert "NaN" in ended["message"]


PHASES = ("Pending", "Preparing", "Starting", "Running", "Restarting", "Suspended", "Succeeded", "Failed")


def test_delete_in_every_phase_leaves_nothing_behind(ns: JobNamespace) -> None:
    assert set(PHASES) == set(get_args(State))
    jobs = {phase: f"gone-{phase.lower()}" for phase in PHASES}
    for phase, job in jobs.items():
        waits: dict[str, Any] = {"storage": {"claimName": "nowhere"}} if phase == "Pending" else {}
        ns.create_job(job, runPolicy={"backoffLimit": 1}, **waits)
        if phase in ("Pending", "Preparing"):
            continue
        ns.prepare(job)
        ns.wait_pods(job, f"{job}-0-0", f"{job}-0-1")
        if phase == "Starting":
            continue
        if phase == "Restarting":
            ns.bind(f"{job}-0-1")  # no kubelet confirms that the survivor has terminated
        ns.train(job)
        if phase == "Suspended":
            ns.patch_job(job, {"suspend": True})
        elif phase == "Restarting":
            ns.fail(f"{job}-0-0", 3, DIVERGED)
        elif phase == "Failed":
            ns.fail(f"{job}-0-0", 2, {"state": "Failed", "class": "UserError", "message": "no"})
        elif phase == "Succeeded":
            trained(ns, job)
    for phase, job in jobs.items():
        ns.state(job, phase)
        ns.delete_job(job)
    ns.confirm_gone("gone-restarting-0-1")
    for job in jobs.values():
        ns.gone(job, 60)
    assert ns.objects("pods") == []


def test_image_pull_back_off_surfaces_with_a_startup_deadline(ns: JobNamespace) -> None:
    ns.create_job("pulled", image="registry.test/no:v0", runPolicy={"startupDeadlineSeconds": 3})
    ns.wait_pods("pulled", "pulled-prepare-0")
    ns.cannot_start("pulled-prepare-0", "ImagePullBackOff", "registry.test/no:v0: not found")
    ns.stalled("pulled", "ImagePullBackOff", 15)
    ns.state("pulled", "Failed")
    failed = ns.condition("pulled", "Failed")
    assert failed["reason"] == "StartupDeadlineExceeded"
    assert "registry.test/no:v0: not found" in failed["message"]


def test_quota_403_surfaces_and_retries(ns: JobNamespace) -> None:
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    ns.create("resourcequotas", quota)
    wait_for("the quota to be enforced", lambda: "hard" in ns.objects("resourcequotas")[0].get("status", {}))
    ns.create_job("poor")
    stalled = ns.stalled("poor", "QuotaExceeded", 15)
    assert "exceeded quota" in stalled["message"]
    assert ns.event("poor", "QuotaExceeded")["type"] == "Warning"
    assert ns.status("poor")["state"] == "Pending"
    ns.delete("resourcequotas", "none")
    ns.prepare("poor")
    ns.train("poor")


def test_the_operator_killed_in_mid_create_creates_no_duplicates(
    ns: JobNamespace, operator: OperatorProcess
) -> None:
    ns.create_job("many", numNodes=20)
    ns.prepare("many")
    wait_for("the first workers", lambda: len(ns.pods("many")) > 3)
    operator.kill()
    before = {n: p["metadata"]["uid"] for n, p in ns.pods("many").items()}
    operator.start()
    wait_for("all workers", lambda: len(ns.pods("many")) == 21)
    ns.train("many", nodes=20)
    after = {n: p["metadata"]["uid"] for n, p in ns.pods("many").items()}
    assert {n: after[n] for n in before} == before
    assert ns.status("many")["restarts"]["total"] == 0
    assert ns.status("many")["attempt"] == 0


def test_finished_jobs_are_never_restarted_and_running_ones_not_disturbed_by_an_operator_restart(
    ns: JobNamespace, api_server: ApiServer, operator: OperatorProcess, tmp_path: Path
) -> None:
    ns.create_job("done", numNodes=1)
    ns.create_job("busy", numNodes=1)
    ns.prepare("done")
    ns.prepare("busy")
    ns.train("done", nodes=1)
    ns.train("busy", nodes=1)
    ns.succeed("done-0-0", TRAINED)
    ns.state("done", "Succeeded")
    assert operator.stop() == 0
    ns.delete("pods", "done-0-0")
    ns.delete("pods", "done-prepare-0")
    before = ns.pods("busy")["busy-0-0"]["metadata"]
    operator.start()
    # A job created after the restart has finished, so the operator has reconciled all others.
    ns.create_job("later", numNodes=1)
    ns.prepare("later")
    ns.train("later", nodes=1)
    assert ns.pods("done") == {}
    assert ns.status("done")["state"] == "Succeeded"
    after = ns.pods("busy")["busy-0-0"]["metadata"]
    assert after["uid"] == before["uid"]
    assert "deletionTimestamp" not in after
    assert ns.status("busy")["restarts"]["total"] == 0


def test_a_pod_group_is_created_for_another_scheduler_and_its_absence_is_reported(ns: JobNamespace) -> None:
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    names = {"kind": "PodGroup", "plural": "podgroups", "singular": "podgroup"}
    served = {"name": "v1beta1", "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}
    definition: dict[str, Any] = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "podgroups.scheduling.volcano.sh",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {
            "group": "scheduling.volcano.sh",
            "scope": "Namespaced",
            "names": names,
            "versions": [served],
        },
    }
    ns.create_job("group", gangScheduling={"provider": "Volcano", "queue": "music"})
    ns.prepare("group")
    assert "Volcano" in str(ns.job("group")["spec"])
    assert "install the scheduler" in ns.stalled("group", "GangSchedulerMissing")["message"]
    ns.api.request("POST", crd.COLLECTION, definition)
    try:
        ns.train("group")
        groups = f"/apis/scheduling.volcano.sh/v1beta1/namespaces/{ns.namespace}/podgroups"
        (group,) = ns.api.get(groups)["items"]
        assert (group["metadata"]["name"], group["spec"]) == ("group-0", {"minMember": 2, "queue": "music"})
        pod = ns.pods("group")["group-0-0"]
        assert pod["spec"]["schedulerName"] == "volcano"
        assert pod["metadata"]["annotations"]["scheduling.k8s.io/group-name"] == "group-0"
    finally:
        ns.api.delete(f"{crd.COLLECTION}/podgroups.scheduling.volcano.sh")
