"""The life of a job on a real API server, with a real operator; the test acts as scheduler and kubelet."""

from __future__ import annotations

import pytest
import yaml

from api.api_harness import TRAINED, JobNamespace, environment
from api.launcher import launcher
from aurl_dev.operator_process import TRAINER_IMAGE, OperatorProcess
from aurl_dev.waiting import wait_for
from aurl_operator.core.podsecurity import violations

pytestmark = [pytest.mark.api, pytest.mark.usefixtures("operator")]


def test_from_creation_to_success(ns: JobNamespace, operator: OperatorProcess) -> None:
    uid = ns.create_job("happy")["metadata"]["uid"]
    status = ns.state("happy", "Preparing")
    types = [c["type"] for c in status["conditions"]]
    assert types == ["Succeeded", "Failed", "Running", "DatasetReady", "Suspended", "Reconciling", "Stalled"]
    assert ns.condition("happy", "Succeeded")["status"] == "Unknown"
    assert ns.children("happy") == [
        "configmaps/happy-config",
        "networkpolicies/happy-pods",
        "persistentvolumeclaims/happy-data",
        "pods/happy-prepare-0",
        "services/happy-rdzv",
    ]
    config = ns.api.get(f"/api/v1/namespaces/{ns.namespace}/configmaps/happy-config")
    document = yaml.safe_load(config["data"]["job.yaml"])
    assert document["training"]["steps"] == 400
    assert (
        document["dataset"]["source"] == {"music21Corpus": {"collection": "chorales"}} or document["dataset"]
    )
    ns.prepare("happy")
    pods = ns.wait_pods("happy", "happy-0-0", "happy-0-1")
    service = ns.api.get(f"/api/v1/namespaces/{ns.namespace}/services/happy-rdzv")
    address = service["spec"]["clusterIP"]
    for index in (0, 1):
        pod = pods[f"happy-0-{index}"]
        assert violations(pod) == ()
        variables = environment(pod)
        assert variables["AURL_RDZV_ENDPOINT"] == f"{address}:29400"
        assert variables["AURL_NODE_RANK"] == str(index)
        assert variables["AURL_NUM_NODES"] == "2"
        assert variables["AURL_JOB_UID"] == uid
        assert pod["spec"]["containers"][0]["image"] == TRAINER_IMAGE
        assert pod["metadata"]["ownerReferences"][0]["uid"] == uid
        assert pod["metadata"]["labels"]["aurl.ai/replica-index"] == str(index)
    answer = {
        "attempt": 0,
        "state": "Training",
        "step": 120,
        "totalSteps": 400,
        "startStep": 0,
        "loss": 2.5,
        "tokensPerSecond": 5000.4,
        "lastCheckpoint": {
            "step": 100,
            "path": "x/checkpoints/step-00000100",
            "time": "2026-01-01T00:00:00Z",
        },
        "firstStepAt": "2026-01-01T00:00:00Z",
        "updatedAt": "2026-01-01T00:01:00Z",
    }
    with launcher("127.0.0.11", answer):
        ns.run("happy-0-0", ip="127.0.0.11")
        ns.run("happy-0-1", ip="127.0.0.12")
        status = ns.state("happy", "Running")
        assert status["nodes"] == {"desired": 2, "ready": 2}
        progress = wait_for("progress", lambda: dict(ns.status("happy").get("progress") or {}))
        assert (progress["step"], progress["percentage"], progress["loss"]) == (120, 30, 2.5)
        assert progress["tokensPerSecond"] == 5000
        assert progress["estimatedRemainingSeconds"] == round(280 * 60 / 119)
        assert ns.status("happy")["lastCheckpoint"]["step"] == 100
        labels = {"job_namespace": ns.namespace, "job_name": "happy"}
        # The test may see it before the operator gets its answer.
        steps = ("aurl_operator_job_step", frozenset(labels.items()))
        wait_for("the metric", lambda: operator.metrics().get(steps) == 120)
        assert operator.metric("aurl_operator_job_state", **labels, state="Running") == 1
    ns.succeed("happy-0-1", TRAINED)
    ns.succeed("happy-0-0", TRAINED)
    status = ns.state("happy", "Succeeded")
    assert ns.condition("happy", "Succeeded")["status"] == "True"
    assert ns.condition("happy", "Failed")["status"] == "False"
    assert status["progress"]["step"] == 400
    assert status["lastCheckpoint"]["step"] == 400
    assert status["dataset"]["fingerprint"] == "f00d"
    assert status["completionTime"]
    wait_for("the Service to go", lambda: "services/happy-rdzv" not in ns.children("happy"))
    assert sorted(ns.pods("happy")) == ["happy-0-0", "happy-0-1", "happy-prepare-0"]
    for reason in ("Preparing", "DatasetReady", "Starting", "Running", "Succeeded"):
        assert ns.event("happy", reason)["type"] == "Normal"
    assert "a.mid" in ns.event("happy", "DatasetReady")["message"]


def test_a_deleted_worker_does_not_consume_the_backoff_limit(ns: JobNamespace) -> None:
    ns.create_job("struck", runPolicy__backoffLimit=0)
    ns.prepare("struck")
    ns.train("struck")
    ns.delete("pods", "struck-0-1")
    ns.wait_pods("struck", "struck-1-0", "struck-1-1")
    status = ns.status("struck")
    assert status["restarts"]["byClass"] == {"Infrastructure": 1}
    assert status["lastFailure"]["pod"] == "struck-0-1"
    ns.train("struck", attempt=1)
    assert ns.condition("struck", "DatasetReady")["status"] == "True"


def test_the_only_worker_vanishes_repeatedly(ns: JobNamespace) -> None:
    """Its deletion is the only event: nothing else would trigger a reconcile."""
    ns.create_job("alone", numNodes=1)
    ns.prepare("alone")
    for attempt in (0, 1):
        ns.train("alone", nodes=1, attempt=attempt)
        ns.delete("pods", f"alone-{attempt}-0")
        ns.wait_pods("alone", f"alone-{attempt + 1}-0")


def test_time_to_live(ns: JobNamespace) -> None:
    policies = {"brief": {}, "spent": {"cleanClaimPolicy": "Delete"}}
    for job, policy in policies.items():
        ns.create_job(job, runPolicy={"ttlSecondsAfterFinished": 1, **policy}, numNodes=1)
        ns.prepare(job)
        ns.train(job, nodes=1)
        ns.succeed(f"{job}-0-0", TRAINED)
    jobs = f"/apis/aurl.ai/v1alpha1/namespaces/{ns.namespace}/aurltrainingjobs"
    wait_for("the jobs to go", lambda: {ns.api.status(f"{jobs}/{job}") for job in policies} == {404})
    # The garbage collector discovers new kinds every 30 s.
    wait_for("the other objects to go", lambda: ns.children("spent") == [], 90)
    wait_for("all but the claim to go", lambda: len(ns.children("brief")) == 1, 90)
    (claim,) = ns.objects("persistentvolumeclaims")
    assert claim["metadata"]["name"] == "brief-data"
    assert "ownerReferences" not in claim["metadata"]
    assert "deletionTimestamp" not in claim["metadata"]


def test_a_lost_claim_is_reported_and_never_silently_recreated(ns: JobNamespace) -> None:
    ns.create_job("bereft", numNodes=1)
    ns.prepare("bereft")
    ns.train("bereft", nodes=1)
    # Only a pod with a node uses its claim.
    ns.bind("bereft-0-0")
    claims = "persistentvolumeclaims"
    ns.delete(claims, "bereft-data")
    # A claim in use stays until its pods have terminated: there is still time to copy its data.
    assert "is being deleted" in ns.stalled("bereft", "ClaimLost")["message"]
    assert ns.status("bereft")["state"] == "Running"
    ns.delete("pods", "bereft-0-0")
    ns.confirm_gone("bereft-0-0")
    ns.delete("pods", "bereft-prepare-0")

    def reported() -> bool:
        return "was deleted, and" in ns.condition("bereft", "Stalled")["message"]

    wait_for("the loss to be reported", reported)
    assert ns.objects(claims) == []
    assert ns.pods("bereft") == {}
    assert ns.event("bereft", "ClaimLost")["type"] == "Warning"
    # A restored claim of that name resolves it.
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    restored = ns.create(claims, {"metadata": {"name": "bereft-data"}, "spec": spec})
    ns.prepare("bereft", attempt=1)
    ns.train("bereft", attempt=1, nodes=1)
    assert ns.condition("bereft", "Stalled")["status"] == "False"
    assert ns.status("bereft")["claimUid"] == restored["metadata"]["uid"]


def test_the_access_mode_follows_the_nodes(ns: JobNamespace) -> None:
    modes = {"apart": None, "together": ["ReadWriteOnce"]}
    for job, wanted in modes.items():
        template = {"size": "1Gi"} | ({"accessModes": wanted} if wanted else {})
        ns.create_job(job, storage={"claimTemplate": template})
        ns.prepare(job)
        ns.train(job)
    claims = {c["metadata"]["name"]: c["spec"]["accessModes"] for c in ns.objects("persistentvolumeclaims")}
    assert claims == {"apart-data": ["ReadWriteMany"], "together-data": ["ReadWriteOnce"]}
    (term,) = ns.pods("together")["together-0-1"]["spec"]["affinity"]["podAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert "affinity" not in ns.pods("apart")["apart-0-1"]["spec"]


def test_others_reach_only_the_metrics_of_a_job(ns: JobNamespace) -> None:
    uid = ns.create_job("guarded")["metadata"]["uid"]
    ns.prepare("guarded")
    (policy,) = ns.objects("networkpolicies")
    # The workers may exist by now.
    pod = ns.pods("guarded")["guarded-prepare-0"]
    assert int(policy["metadata"]["resourceVersion"]) < int(pod["metadata"]["resourceVersion"])
    own = {"matchLabels": {"aurl.ai/job-uid": uid}}
    assert policy["spec"] == {
        "podSelector": own,
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": own}]}, {"ports": [{"port": 9402, "protocol": "TCP"}]}],
    }
    ns.delete("networkpolicies", "guarded-pods")
    wait_for("the policy to be recreated", lambda: ns.objects("networkpolicies"))


def test_a_hanging_training_is_restarted_within_its_budget(ns: JobNamespace) -> None:
    ns.create_job("frozen", numNodes=1, runPolicy={"hangDeadlineSeconds": 2, "backoffLimit": 1})
    ns.prepare("frozen")
    answer = {"attempt": 0, "state": "Training", "step": 5, "totalSteps": 400, "startStep": 0}
    with launcher("127.0.0.13", answer):
        ns.wait_pods("frozen", "frozen-0-0")
        ns.run("frozen-0-0", ip="127.0.0.13")
        ns.wait_pods("frozen", "frozen-1-0")
        status = ns.status("frozen")
        assert status["restarts"]["byClass"] == {"Hang": 1}
        assert "hangs at step 5" in status["lastFailure"]["message"]
        answer["attempt"] = 1
        ns.run("frozen-1-0", ip="127.0.0.13")
        ns.state("frozen", "Failed")
    assert ns.condition("frozen", "Failed")["reason"] == "BackoffLimitExceeded"
    assert "hangs" in ns.event("frozen", "BackoffLimitExceeded")["message"]


def test_a_running_job_cannot_be_changed_but_suspended(ns: JobNamespace) -> None:
    ns.create_job("fixed")
    ns.prepare("fixed")
    ns.train("fixed")
    ns.patch_job("fixed", {"numNodes": 3})
    stalled = ns.stalled("fixed", "ChangeRefused")
    assert "spec.numNodes" in stalled["message"]
    assert ns.status("fixed")["state"] == "Running"
    ns.patch_job("fixed", {"numNodes": 2})
    wait_for("the refusal to be lifted", lambda: ns.condition("fixed", "Stalled")["status"] == "False")


def test_pages_of_the_operator(operator: OperatorProcess) -> None:
    assert operator.get("/healthz") == (200, "ok")
    assert operator.get("/readyz")[0] == 200
    assert operator.metric("aurl_operator_last_resync_timestamp_seconds") > 0
    assert operator.metric("aurl_operator_reconciles_total", result="error") == 0
    assert 'verb="watch"' in operator.get("/metrics")[1]
