"""What users of other training operators rely on, a test per promise: `pytest --collect-only -k conformance`.

The list is what the test suites and issue trackers of PyTorchJob, TrainJob, JobSet and their like ask for.
A watch that is silently dead is the business of test_operator_faults.py, and that managedBy cannot be changed
that of test_webhook.py, under names that the same command lists.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, get_args

import pytest

from api.api_harness import JOB, TRAINED, Playground, environment, wait_for
from api.conftest import CRD_FILE
from api.launcher import launcher
from aurl_dev.cluster.api import ApiError
from aurl_dev.cluster.control_plane import ApiServer
from aurl_dev.operator_process import OperatorProcess
from aurl_operator.api.status import State

pytestmark = [pytest.mark.api, pytest.mark.usefixtures("operator")]
DIVERGED = {"state": "Failed", "class": "Divergence", "message": "loss is NaN"}


def trained(ground: Playground, job: str, attempt: int = 0, nodes: int = 2) -> None:
    """All workers of an attempt succeed."""
    for index in range(nodes):
        ground.succeed(f"{job}-{attempt}-{index}", TRAINED)
    ground.state(job, "Succeeded")


def running(ground: Playground, job: str, nodes: int = 2, **changes: Any) -> None:
    """A job whose workers run."""
    ground.create_job(job, numNodes=nodes, **changes)
    ground.prepare(job)
    ground.train(job, nodes=nodes)


def test_creates_pods_and_services_with_the_right_env_and_owner_references(ground: Playground) -> None:
    uid = ground.create_job("made", numNodes=2, numProcPerNode=3)["metadata"]["uid"]
    ground.prepare("made")
    pods = ground.wait_pods("made", "made-0-0", "made-0-1")
    (service,) = [s for s in ground.objects("services") if s["metadata"]["name"] == "made-rdzv"]
    for index in range(2):
        variables = environment(pods[f"made-0-{index}"])
        assert variables["AURL_RDZV_ENDPOINT"] == f"{service['spec']['clusterIP']}:29400"
        assert (variables["AURL_NODE_RANK"], variables["AURL_NUM_NODES"]) == (str(index), "2")
        assert variables["AURL_NPROC_PER_NODE"] == "3"
    for owned in (service, *pods.values()):
        (owner,) = owned["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (uid, True)


def test_created_suspended_makes_no_pods(ground: Playground) -> None:
    ground.create_job("asleep", suspend=True)
    assert "startTime" not in ground.state("asleep", "Suspended")
    assert ground.children("asleep") == []


def test_suspend_deletes_pods_and_clears_start_time_and_resume_goes_on_from_the_checkpoint(
    ground: Playground,
) -> None:
    ground.create_job("paused")
    ground.prepare("paused")
    ground.train("paused")
    assert ground.status("paused")["startTime"]
    ground.patch_job("paused", {"suspend": True})
    ground.state("paused", "Suspended")
    ground.wait_pods("paused")
    assert "startTime" not in ground.status("paused")
    ground.patch_job("paused", {"suspend": False})
    ground.train("paused", attempt=1)  # no preparation, on the same volume: the ranks find its checkpoint
    status = ground.status("paused")
    assert (status["restarts"]["total"], status["attempt"]) == (0, 1)
    volumes = {v["name"]: v for v in ground.pods("paused")["paused-1-0"]["spec"]["volumes"]}
    assert volumes["data"]["persistentVolumeClaim"]["claimName"] == "paused-data"


def test_external_managed_by_is_untouched_and_immutable(ground: Playground) -> None:
    ground.create_job("foreign", managedBy="kueue.x-k8s.io/multikueue")
    ground.create_job("ours")
    ground.state("ours", "Preparing")
    assert ground.status("foreign") == {}
    assert ground.children("foreign") == []
    # Servers that know CEL rules refuse a change.
    assert "managedBy cannot be changed after creation" in CRD_FILE.read_text()


@pytest.mark.parametrize(
    ("limit", "policy", "left"), [(0, "All", set()), (3, "None", {"limited-3-0", "limited-3-1"})]
)
def test_backoff_limit_exceeded_respects_clean_pod_policy(
    ground: Playground, limit: int, policy: str, left: set[str]
) -> None:
    report = {**DIVERGED, "lastCheckpoint": {"step": 1}}
    ground.create_job("limited", runPolicy={"backoffLimit": limit, "cleanPodPolicy": policy})
    ground.prepare("limited")
    for attempt in range(limit + 1):
        ground.train("limited", attempt=attempt)
        report["lastCheckpoint"] = {"step": attempt + 1}  # so that no restart has to wait
        ground.fail(f"limited-{attempt}-0", 3, report)
    status = ground.state("limited", "Failed")
    assert status["restarts"]["total"] == limit
    assert ground.condition("limited", "Failed")["reason"] == "BackoffLimitExceeded"
    workers = [name for name in ground.pods("limited") if "prepare" not in name]
    wait_for("the clean-up", lambda: {n for n in ground.pods("limited") if "prepare" not in n} == left, 10)
    assert set(workers) >= left


def test_active_deadline(ground: Playground) -> None:
    running(ground, "slow", runPolicy={"activeDeadlineSeconds": 3})
    ground.state("slow", "Failed")
    assert ground.condition("slow", "Failed")["reason"] == "DeadlineExceeded"
    ground.wait_pods("slow")


def test_deadline_neither_starts_nor_runs_while_suspended(ground: Playground) -> None:
    ground.create_job("patient", suspend=True, runPolicy={"activeDeadlineSeconds": 2})
    ground.create_job("clock", numNodes=1, runPolicy={"activeDeadlineSeconds": 2})
    # By the time the other's deadline has passed, that of the suspended job would have, too.
    ground.state("clock", "Failed")
    ground.patch_job("patient", {"managedBy": None})  # any touch has it looked at
    assert ground.status("patient")["state"] == "Suspended"
    ground.patch_job("patient", {"suspend": False, "runPolicy": {"activeDeadlineSeconds": 3600}})
    ground.prepare("patient")
    ground.train("patient")


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
    ground: Playground, nodes: int, procs: int, elastic: dict[str, int] | None
) -> None:
    ground.create_job("combo", numNodes=nodes, numProcPerNode=procs, elastic=elastic)
    ground.prepare("combo")
    pods = ground.wait_pods("combo", *(f"combo-0-{index}" for index in range(nodes)))
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
    ground: Playground, name: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(ApiError) as refused:
        ground.create_job(name, **changes)
    assert refused.value.code == 422


def test_complete_and_failed_conditions(ground: Playground) -> None:
    running(ground, "good", nodes=1)
    running(ground, "bad", nodes=1)
    trained(ground, "good", nodes=1)
    ground.fail("bad-0-0", 2, {"state": "Failed", "class": "UserError", "message": "no such key"})
    ground.state("bad", "Failed")
    told = {
        job: tuple(ground.condition(job, kind)["status"] for kind in ("Succeeded", "Failed", "Running"))
        for job in ("good", "bad")
    }
    assert told == {"good": ("True", "False", "False"), "bad": ("False", "True", "False")}
    assert "no such key" in ground.condition("bad", "Failed")["message"]


def test_termination_grace_period_propagates(ground: Playground) -> None:
    ground.create_job("graceful", numNodes=1, runPolicy={"terminationGracePeriodSeconds": 77})
    ground.prepare("graceful")
    pod = ground.wait_pods("graceful", "graceful-0-0")["graceful-0-0"]
    assert pod["spec"]["terminationGracePeriodSeconds"] == 77
    assert environment(pod)["AURL_GRACE_SECONDS"] == "77"


def test_progress_is_taken_and_overwritten_kept_when_empty_and_rejected_beyond_the_end(
    ground: Playground,
) -> None:
    ground.create_job("told", numNodes=1)
    ground.prepare("told")
    ground.wait_pods("told", "told-0-0")
    answer: dict[str, Any] = {"attempt": 0, "state": "Training", "step": 10, "totalSteps": 40, "loss": 3.0}

    def step(wanted: int, loss: float) -> None:
        def look() -> bool:
            progress = ground.status("told").get("progress") or {}
            return (progress.get("step"), progress.get("loss")) == (wanted, loss)

        wait_for(f"step {wanted}", look)

    with launcher("127.0.0.14", answer):
        ground.run("told-0-0", ip="127.0.0.14")
        step(10, 3.0)
        answer |= {"step": 20, "loss": 2.5}
        step(20, 2.5)
        answer["loss"] = None
        answer["lastCheckpoint"] = {"step": 20, "path": "x"}
        wait_for(
            "the checkpoint", lambda: (ground.status("told").get("lastCheckpoint") or {}).get("step") == 20
        )
        step(20, 2.5)
        answer |= {"step": 41, "lastCheckpoint": {"step": 21, "path": "x"}}
        wait_for("the checkpoint", lambda: ground.status("told")["lastCheckpoint"]["step"] == 21)
        step(20, 2.5)
        assert ground.status("told")["progress"]["percentage"] == 50


def test_succeeds_after_one_failure(ground: Playground) -> None:
    running(ground, "tough", nodes=1, runPolicy={"backoffLimit": 1})
    ground.fail("tough-0-0", 3, DIVERGED)
    ground.train("tough", attempt=1, nodes=1)
    trained(ground, "tough", attempt=1, nodes=1)
    assert ground.status("tough")["restarts"]["byClass"] == {"Divergence": 1}


def test_old_pods_are_gone_before_new_ones_are_made(ground: Playground) -> None:
    ground.create_job("gang", runPolicy__backoffLimit=1)
    ground.prepare("gang")
    ground.wait_pods("gang", "gang-0-0", "gang-0-1")
    ground.bind("gang-0-0")
    ground.bind("gang-0-1")
    ground.train("gang")
    report = {
        "state": "Failed",
        "class": "Divergence",
        "rank": 1,
        "exitCode": 3,
        "message": "loss is NaN at step 7",
    }
    ground.fail("gang-0-1", 3, report)
    status = ground.state("gang", "Restarting")
    assert status["attempt"] == 1
    assert status["restarts"] == {"total": 1, "byClass": {"Divergence": 1}, "consecutive": 1}
    failure = status["lastFailure"]
    assert (failure["class"], failure["rank"], failure["pod"]) == ("Divergence", 1, "gang-0-1")
    assert "NaN" in failure["message"]
    # The survivor is told to go, and as long as it still saves its work nothing new may exist.
    pods = ground.wait_pods("gang", "gang-0-0")
    assert "deletionTimestamp" in pods["gang-0-0"]["metadata"]
    assert set(pods) == {"gang-prepare-0", "gang-0-0"}
    ground.confirm_gone("gang-0-0")
    pods = ground.wait_pods("gang", "gang-1-0", "gang-1-1")
    assert environment(pods["gang-1-0"])["AURL_ATTEMPT"] == "1"
    assert "NaN" in ground.event("gang", "Restarting")["message"]


def test_fails_after_max_restarts(ground: Playground) -> None:
    running(ground, "spent", runPolicy={"backoffLimit": 1})
    ground.fail("spent-0-1", 3, DIVERGED)
    ground.train("spent", attempt=1)
    ground.fail("spent-1-0", 3, DIVERGED)
    status = ground.state("spent", "Failed")
    assert ground.condition("spent", "Failed")["reason"] == "BackoffLimitExceeded"
    assert status["restarts"]["total"] == 1
    wait_for(
        "the survivor to be deleted", lambda: set(ground.pods("spent")) == {"spent-1-0", "spent-prepare-0"}
    )
    assert "NaN" in ground.event("spent", "BackoffLimitExceeded")["message"]


def test_a_deleted_service_or_pod_is_recreated(ground: Playground) -> None:
    running(ground, "mended", runPolicy={"backoffLimit": 0})
    before = {s["metadata"]["name"]: s["metadata"]["uid"] for s in ground.objects("services")}
    ground.delete("services", "mended-rdzv")

    def again() -> bool:
        now = {s["metadata"]["name"]: s["metadata"]["uid"] for s in ground.objects("services")}
        return bool(now.get("mended-rdzv", before["mended-rdzv"]) != before["mended-rdzv"])

    wait_for("the Service to come back", again)
    ground.delete("pods", "mended-0-1")
    ground.train("mended", attempt=1)
    assert ground.status("mended")["restarts"]["byClass"] == {"Infrastructure": 1}


def test_the_same_owner_name_with_another_uid_is_ignored(ground: Playground) -> None:
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
    uid = ground.create("pods", old)["metadata"]["uid"]
    ground.create_job("twin", numNodes=1)
    assert "twin-prepare-0" in ground.stalled("twin", "NameConflict")["message"]
    assert ground.pods("twin")["twin-prepare-0"]["metadata"]["uid"] == uid
    path = f"/api/v1/namespaces/{ground.namespace}/pods/twin-prepare-0"
    ground.api.request("PATCH", path, {"metadata": {"finalizers": []}})
    ground.api.delete(path)

    def ours() -> bool:
        found = ground.pods("twin").get("twin-prepare-0")
        return bool(found and found["metadata"]["uid"] != uid)

    wait_for("the job's own pod", ours)


def test_generate_name(ground: Playground) -> None:
    jobs = f"/apis/aurl.ai/v1alpha1/namespaces/{ground.namespace}/aurltrainingjobs"
    name = ground.api.request("POST", jobs, {**JOB, "metadata": {"generateName": "any-"}})["metadata"]["name"]
    assert name.startswith("any-")
    ground.prepare(name)
    ground.train(name)


def test_unschedulable_with_a_schedule_timeout_releases_the_gang(ground: Playground) -> None:
    ground.create_job("halves", gangScheduling={"scheduleTimeoutSeconds": 1})
    ground.prepare("halves")
    ground.wait_pods("halves", "halves-0-0", "halves-0-1")
    ground.bind("halves-0-0")
    ground.unschedulable("halves-0-1", "0/1 nodes are available: 1 Insufficient cpu.")
    assert "1 of 2 pods" in ground.stalled("halves", "GangReleased")["message"]
    ground.confirm_gone("halves-0-0")
    ground.wait_pods("halves")
    ground.event("halves", "GangReleased")
    status = ground.status("halves")
    assert (status["restarts"]["total"], status["attempt"], status["scheduling"]["releases"]) == (0, 1, 1)


def test_two_jobs_that_each_hold_half_of_the_room_both_succeed_in_the_end(ground: Playground) -> None:
    """A node for two pods, and a scheduler that gives room to whoever has waited longest."""
    jobs = ("left", "right")
    for job in jobs:
        ground.create_job(job, gangScheduling={"scheduleTimeoutSeconds": 1})
        ground.prepare(job)
        ground.wait_pods(job, f"{job}-0-0", f"{job}-0-1")
        ground.bind(f"{job}-0-0")

    def take_a_turn() -> bool:
        pods = {job: [p for n, p in ground.pods(job).items() if "-prepare-" not in n] for job in jobs}
        workers = [pod for each in pods.values() for pod in each]
        held = [
            pod for pod in workers if pod["spec"].get("nodeName") and pod["status"]["phase"] != "Succeeded"
        ]
        for pod in held:
            name = pod["metadata"]["name"]
            if "deletionTimestamp" in pod["metadata"]:
                ground.confirm_gone(name)
            elif pod["status"]["phase"] == "Pending":
                ground.run(name)
        waiting = [pod for pod in workers if not pod["spec"].get("nodeName")]
        waiting.sort(key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))
        for pod in waiting[: 2 - len(held)]:
            with contextlib.suppress(ApiError):  # released meanwhile
                ground.bind(pod["metadata"]["name"])
        states = [ground.status(job).get("state") for job in jobs]
        for job, state in zip(jobs, states, strict=True):
            if state == "Running":
                for pod in pods[job]:
                    ground.succeed(pod["metadata"]["name"], TRAINED)
        return states == ["Succeeded", "Succeeded"]

    wait_for("both jobs to succeed", take_a_turn, 120)
    for job in jobs:
        assert ground.event(job, "GangReleased")
        assert ground.status(job)["restarts"]["total"] == 0


def test_scale_up_down_and_to_the_bounds(ground: Playground) -> None:
    elastic = {"minNodes": 1, "maxNodes": 3}
    running(ground, "scaled", elastic=elastic)
    path = f"/apis/aurl.ai/v1alpha1/namespaces/{ground.namespace}/aurltrainingjobs/scaled/scale"
    scale = ground.api.get(path)  # what kubectl scale and an autoscaler read and write
    assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (2, 2)
    assert "aurl.ai/role=worker" in scale["status"]["selector"]

    def to(nodes: int) -> None:
        ground.api.request("PATCH", path, {"spec": {"replicas": nodes}})

    to(3)
    ground.wait_pods("scaled", "scaled-0-0", "scaled-0-1", "scaled-0-2")
    assert ground.pods("scaled")["scaled-0-2"]["metadata"]["labels"]["aurl.ai/role"] == "placeholder"
    ground.bind("scaled-0-2")
    ground.wait_pods("scaled", "scaled-0-2")  # it is asked to leave; the kubelet says when it has
    ground.confirm_gone("scaled-0-2")
    ground.train("scaled", attempt=1, nodes=3)
    to(1)
    ground.train("scaled", attempt=2, nodes=1)
    to(4)
    assert "spec.numNodes: is 4" in ground.stalled("scaled", "InvalidSpec")["message"]
    assert ground.status("scaled")["replicas"] == 1
    assert ground.status("scaled")["restarts"]["total"] == 0


def test_lost_capacity_that_does_not_return_shrinks_an_elastic_job(ground: Playground) -> None:
    ground.create_job("shrunk", elastic={"minNodes": 1, "maxNodes": 2, "shrinkAfterSeconds": 1})
    ground.prepare("shrunk")
    ground.wait_pods("shrunk", "shrunk-0-0", "shrunk-0-1")
    ground.bind("shrunk-0-0")
    ground.wait_pods("shrunk", "shrunk-0-0")
    ground.confirm_gone("shrunk-0-0")
    ground.train("shrunk", attempt=1, nodes=1)
    status = ground.status("shrunk")
    assert (status["elasticNodes"], status["replicas"], status["restarts"]["total"]) == (1, 1, 0)
    assert environment(ground.pods("shrunk")["shrunk-1-0"])["AURL_NUM_NODES"] == "1"
    assert ground.event("shrunk", "Resized")["type"] == "Normal"


def test_retains_failed_pods_on_the_last_retry(ground: Playground) -> None:
    running(ground, "kept", runPolicy={"backoffLimit": 0})
    ground.fail("kept-0-1", 3, DIVERGED)
    ground.state("kept", "Failed")
    ground.wait_pods("kept", "kept-0-1")
    ended = ground.pods("kept")["kept-0-1"]["status"]["containerStatuses"][0]["state"]["terminated"]
    assert "NaN" in ended["message"]


PHASES = ("Pending", "Preparing", "Starting", "Running", "Restarting", "Suspended", "Succeeded", "Failed")


def test_delete_in_every_phase_leaves_nothing_behind(ground: Playground) -> None:
    assert set(PHASES) == set(get_args(State))
    jobs = {phase: f"gone-{phase.lower()}" for phase in PHASES}
    for phase, job in jobs.items():
        waits: dict[str, Any] = {"storage": {"claimName": "nowhere"}} if phase == "Pending" else {}
        ground.create_job(job, runPolicy={"backoffLimit": 1}, **waits)
        if phase in ("Pending", "Preparing"):
            continue
        ground.prepare(job)
        ground.wait_pods(job, f"{job}-0-0", f"{job}-0-1")
        if phase == "Starting":
            continue
        if phase == "Restarting":
            ground.bind(f"{job}-0-1")  # no kubelet confirms that the survivor has ended
        ground.train(job)
        if phase == "Suspended":
            ground.patch_job(job, {"suspend": True})
        elif phase == "Restarting":
            ground.fail(f"{job}-0-0", 3, DIVERGED)
        elif phase == "Failed":
            ground.fail(f"{job}-0-0", 2, {"state": "Failed", "class": "UserError", "message": "no"})
        elif phase == "Succeeded":
            trained(ground, job)
    for phase, job in jobs.items():
        ground.state(job, phase)
        ground.delete_job(job)
    ground.confirm_gone("gone-restarting-0-1")
    for job in jobs.values():
        ground.gone(job, 60)
    assert ground.objects("pods") == []


def test_image_pull_back_off_surfaces_with_a_startup_deadline(ground: Playground) -> None:
    ground.create_job("pulled", image="registry.test/no:v0", runPolicy={"startupDeadlineSeconds": 3})
    ground.wait_pods("pulled", "pulled-prepare-0")
    ground.cannot_start("pulled-prepare-0", "ImagePullBackOff", "registry.test/no:v0: not found")
    ground.stalled("pulled", "ImagePullBackOff", 15)
    ground.state("pulled", "Failed")
    failed = ground.condition("pulled", "Failed")
    assert failed["reason"] == "StartupDeadlineExceeded"
    assert "registry.test/no:v0: not found" in failed["message"]


def test_quota_403_surfaces_and_retries(ground: Playground) -> None:
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    ground.create("resourcequotas", quota)
    wait_for("the quota to hold", lambda: "hard" in ground.objects("resourcequotas")[0].get("status", {}))
    ground.create_job("poor")
    told = ground.stalled("poor", "QuotaExceeded", 15)
    assert "exceeded quota" in told["message"]
    assert ground.event("poor", "QuotaExceeded")["type"] == "Warning"
    assert ground.status("poor")["state"] == "Pending"
    ground.delete("resourcequotas", "none")
    ground.prepare("poor")
    ground.train("poor")


def test_the_operator_killed_in_mid_create_makes_no_duplicates(
    ground: Playground, operator: OperatorProcess
) -> None:
    ground.create_job("many", numNodes=20)
    ground.prepare("many")
    wait_for("the first workers", lambda: len(ground.pods("many")) > 3)
    operator.kill()
    before = {n: p["metadata"]["uid"] for n, p in ground.pods("many").items()}
    operator.start()
    wait_for("all workers", lambda: len(ground.pods("many")) == 21)
    ground.train("many", nodes=20)
    after = {n: p["metadata"]["uid"] for n, p in ground.pods("many").items()}
    assert {n: after[n] for n in before} == before
    assert ground.status("many")["restarts"]["total"] == 0
    assert ground.status("many")["attempt"] == 0


def test_finished_jobs_are_never_restarted_and_running_ones_not_disturbed_by_an_operator_restart(
    ground: Playground, api_server: ApiServer, operator: OperatorProcess, tmp_path: Path
) -> None:
    ground.create_job("done", numNodes=1)
    ground.create_job("busy", numNodes=1)
    ground.prepare("done")
    ground.prepare("busy")
    ground.train("done", nodes=1)
    ground.train("busy", nodes=1)
    ground.succeed("done-0-0", TRAINED)
    ground.state("done", "Succeeded")
    assert operator.stop() == 0
    ground.delete("pods", "done-0-0")
    ground.delete("pods", "done-prepare-0")
    before = ground.pods("busy")["busy-0-0"]["metadata"]
    operator.start()
    # A job made after the restart is done with: the restarted operator has then looked at all others.
    ground.create_job("later", numNodes=1)
    ground.prepare("later")
    ground.train("later", nodes=1)
    assert ground.pods("done") == {}
    assert ground.status("done")["state"] == "Succeeded"
    after = ground.pods("busy")["busy-0-0"]["metadata"]
    assert after["uid"] == before["uid"]
    assert "deletionTimestamp" not in after
    assert ground.status("busy")["restarts"]["total"] == 0


def test_a_pod_group_is_made_for_another_scheduler_and_its_absence_is_told(ground: Playground) -> None:
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
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
    ground.create_job("group", gangScheduling={"provider": "Volcano", "queue": "music"})
    ground.prepare("group")
    assert "Volcano" in str(ground.job("group")["spec"])
    assert "install the scheduler" in ground.stalled("group", "GangSchedulerMissing")["message"]
    ground.api.request("POST", definitions, definition)
    try:
        ground.train("group")
        groups = f"/apis/scheduling.volcano.sh/v1beta1/namespaces/{ground.namespace}/podgroups"
        (group,) = ground.api.get(groups)["items"]
        assert (group["metadata"]["name"], group["spec"]) == ("group-0", {"minMember": 2, "queue": "music"})
        pod = ground.pods("group")["group-0-0"]
        assert pod["spec"]["schedulerName"] == "volcano"
        assert pod["metadata"]["annotations"]["scheduling.k8s.io/group-name"] == "group-0"
    finally:
        ground.api.delete(f"{definitions}/podgroups.scheduling.volcano.sh")
