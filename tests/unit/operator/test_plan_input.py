"""plan() as tables: which specs are refused, and which pods the others get."""

from __future__ import annotations

from typing import Any

import pytest

from aurl_operator.core.podsecurity import violations
from aurl_operator.core.validation import Problem
from unit.operator.builders import NODES, OPTIONS, PREPARED, UID, World, after, make_job, prepared


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"numNodes": 0}, ["spec.numNodes"]),
        ({"nodes": 2}, ["spec.nodes"]),
        ({"storage": {}}, ["spec.storage", "exactly one"]),
        ({"storage": {"claimName": "a", "claimTemplate": {"size": "1Gi"}}}, ["exactly one"]),
        ({"storage": {"claimTemplate": {"size": "lots"}}}, ["size", "quantity"]),
        (
            {"storage": {"claimTemplate": {"size": "1Gi", "accessModes": ["ReadWriteOncePod"]}}},
            ["spec.storage.claimTemplate.accessModes: 2 pods cannot share", "use ReadWriteMany"],
        ),
        ({"training": None}, ["spec.training"]),
        ({"resourcesPerNode": {"limits": {"memory": "-1"}}}, ["resourcesPerNode.limits.memory"]),
        ({"podTemplate": {"env": [{"name": "AURL_ATTEMPT", "value": "9"}]}}, ["AURL_ATTEMPT", "operator"]),
        ({"podTemplate": {"labels": {"aurl.ai/attempt": "9"}}}, ["belongs to the operator"]),
        ({"podTemplate": {"hostNetwork": True}}, ["spec.podTemplate.hostNetwork"]),
        (
            {"podTemplate": {"volumes": [{"name": "x", "mountPath": "/etc/../mnt", "emptyDir": {}}]}},
            ["mountPath"],
        ),
        ({"podTemplate": {"volumes": [{"name": "x", "mountPath": "/x", "hostPath": {}}]}}, ["hostPath"]),
        (
            {
                "podTemplate": {
                    "annotations": {"container.apparmor.security.beta.kubernetes.io/trainer": "unconfined"}
                }
            },
            ["sandbox"],
        ),
    ],
)
def test_an_invalid_specification_fails_at_once_with_its_path(change: Any, words: list[str]) -> None:
    world = World(make_job(**change))
    world.settle()
    assert world.state == "Failed"
    assert world.condition("Failed") == ("True", "InvalidSpec")
    assert all(word in world.message("Failed") for word in words), world.message("Failed")
    assert world.pods == {}
    assert world.status["lastFailure"]["class"] == "UserError"


def test_the_configuration_check_is_asked() -> None:
    options = OPTIONS.__class__(
        image="x", check_config=lambda _dataset, _training: (Problem("spec.training.steps", "too few"),)
    )
    world = World(options=options)
    world.settle()
    assert "spec.training.steps: too few" in world.message("Failed")


@pytest.mark.parametrize(
    ("name", "good"),
    [("a" * 50, True), ("a" * 51, False), ("9lives", False), ("with.dot", False), ("Upper", False)],
)
def test_names(name: str, good: bool) -> None:
    world = World(make_job(name))
    world.settle()
    assert (world.state != "Failed") == good
    if not good:
        assert world.condition("Failed") == ("True", "InvalidName")


@pytest.mark.parametrize("role", ["prepare", "worker"])
def test_every_generated_pod_is_restricted(role: str) -> None:
    overlay = {
        "labels": {"team": "x"},
        "annotations": {"note": "y"},
        "nodeSelector": {"gpu": "yes"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "env": [{"name": "EXTRA", "value": "1"}],
        "imagePullSecrets": [{"name": "pull"}],
        "priorityClassName": "high",
        "volumes": [{"name": "extra", "mountPath": "/extra", "configMap": {"name": "c"}}],
    }
    resources = {"requests": {"cpu": 1}, "limits": {"nvidia.com/gpu": 1, "memory": "2Gi"}}
    job = make_job(podTemplate=overlay, resourcesPerNode=resources)
    world = prepared(job)
    pod = world.pods["bach-prepare-0" if role == "prepare" else "bach-0-1"]
    assert violations(pod) == ()
    spec, container = pod["spec"], pod["spec"]["containers"][0]
    assert spec["restartPolicy"] == "Never"
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["nodeSelector"] == {"gpu": "yes"}
    assert spec["tolerations"][0] == {"key": "gpu", "operator": "Exists"}
    assert pod["metadata"]["labels"]["team"] == "x"
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == "9402"
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (role == "worker")
    assert container["command"][:2] == ["aurl-trainer", "launch"]
    owner = pod["metadata"]["ownerReferences"][0]
    assert owner["controller"] is True
    assert "blockOwnerDeletion" not in owner


@pytest.mark.parametrize(
    "violate",
    [
        lambda pod: pod["spec"].update(hostNetwork=True),
        lambda pod: pod["spec"]["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
        lambda pod: (
            pod["spec"]["securityContext"].pop("runAsNonRoot")
            and pod["spec"]["containers"][0]["securityContext"].pop("runAsNonRoot")
        ),
        lambda pod: pod["spec"]["securityContext"].pop("seccompProfile"),
        lambda pod: pod["spec"]["containers"][0]["securityContext"].update(privileged=True),
        lambda pod: pod["spec"]["containers"][0]["securityContext"].pop("allowPrivilegeEscalation"),
        lambda pod: pod["spec"]["containers"][0]["securityContext"]["capabilities"].update(add=["NET_RAW"]),
        lambda pod: pod["spec"]["containers"][0]["securityContext"].pop("capabilities"),
        lambda pod: pod["spec"]["containers"][0]["ports"][0].update(hostPort=80),
        lambda pod: pod["spec"]["securityContext"].update(runAsUser=0),
        lambda pod: pod["spec"].update(initContainers=[{"name": "root"}]),
    ],
)
def test_the_restricted_check_sees_what_is_forbidden(violate: Any) -> None:
    pod = prepared().pods["bach-0-0"]
    assert violations(pod) == ()
    violate(pod)
    assert violations(pod) != ()


def tied(world: World, name: str) -> bool:
    """Return whether a pod must share its node with the job's other workers."""
    affinity = world.pods[name]["spec"].get("affinity", {}).get("podAffinity", {})
    terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", [])
    labels = [term["labelSelector"]["matchLabels"] for term in terms]
    return {"aurl.ai/job-uid": UID} in labels


@pytest.mark.parametrize(
    ("spec", "modes", "created", "together"),
    [
        ({"numNodes": 1}, None, ["ReadWriteOnce"], False),
        ({"numNodes": 2}, None, ["ReadWriteMany"], False),
        ({"numNodes": 1, "elastic": {"minNodes": 1, "maxNodes": 3}}, None, ["ReadWriteMany"], False),
        ({"numNodes": 1}, ["ReadWriteOncePod"], ["ReadWriteOncePod"], False),
        ({"numNodes": 2}, ["ReadWriteOnce"], ["ReadWriteOnce"], True),
        ({"numNodes": 2}, ["ReadWriteOnce", "ReadWriteMany"], ["ReadWriteOnce", "ReadWriteMany"], False),
    ],
)
def test_the_access_mode_follows_the_nodes(spec: Any, modes: Any, created: Any, together: bool) -> None:
    template = {"size": "1Gi"} | ({"accessModes": modes} if modes else {})
    world = prepared(make_job(**spec, storage={"claimTemplate": template}))
    assert world.claim is not None
    assert world.claim["spec"]["accessModes"] == created
    assert tied(world, "bach-0-0") == together
    assert not tied(world, "bach-prepare-0")


def test_pods_on_a_named_claim_for_one_node_share_a_node() -> None:
    other = {"podAffinityTerm": {"topologyKey": "zone"}}
    affinity = {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [other]}}
    world = World(make_job(storage={"claimName": "mine"}, podTemplate={"affinity": affinity}))
    world.named_claim = {"metadata": {"name": "mine"}, "spec": {"accessModes": ["ReadWriteOnce"]}}
    world.settle()
    world.run("bach-prepare-0")
    world.succeed("bach-prepare-0", PREPARED)
    world.settle()
    assert [tied(world, name) for name in NODES] == [True, True]
    kept = world.pods["bach-0-0"]["spec"]["affinity"]["podAffinity"]
    assert kept["preferredDuringSchedulingIgnoredDuringExecution"] == [other]


def test_pods_cannot_share_a_named_claim_for_one_pod() -> None:
    world = World(make_job(storage={"claimName": "mine"}))
    world.named_claim = {"metadata": {"name": "mine"}, "spec": {"accessModes": ["ReadWriteOncePod"]}}
    world.settle()
    assert world.pods == {}
    assert world.condition("Stalled") == ("True", "ClaimNotShared")
    world.named_claim["spec"]["accessModes"] = ["ReadWriteMany"]
    world.settle()
    assert world.condition("Stalled")[0] == "False"
    assert list(world.pods) == ["bach-prepare-0"]


def test_a_claim_without_a_volume_is_reported_with_the_cure() -> None:
    world = World()
    world.settle()
    assert world.claim is not None
    world.claim["status"] = {"phase": "Pending"}
    world.now = after(29)
    world.settle()
    assert world.condition("Stalled")[0] == "False"
    assert world.last.requeue_after == pytest.approx(1)
    world.now = after(31)
    world.settle()
    assert world.condition("Stalled") == ("True", "ClaimPending")
    assert "accessModes [ReadWriteOnce]" in world.message("Stalled")
    world.claim["status"] = {"phase": "Bound"}
    world.run("bach-prepare-0")
    world.settle()
    assert world.condition("Stalled")[0] == "False"
