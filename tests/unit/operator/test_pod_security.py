"""No spec, however hostile, gets a pod past plan() that violates Pod Security `restricted`.

The assertions restate the standard; they do not use the operator's own check.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from unit.operator.builders import PREPARED, Object, World, make_job

KEYS = st.sampled_from(
    [
        "team",
        "aurl.ai/role",
        "app.kubernetes.io/managed-by",
        "container.apparmor.security.beta.kubernetes.io/trainer",
        "container.seccomp.security.alpha.kubernetes.io/trainer",
        "seccomp.security.alpha.kubernetes.io/pod",
        "kueue.x-k8s.io/queue-name",
    ]
)
VALUES = st.sampled_from(["x", "", "unconfined", "runtime/default", "localhost/mine", "docker/default"])
#: Forbidden pod fields, in the place where a pod has them.
HOSTILE: list[tuple[str, Any]] = [
    ("hostNetwork", True),
    ("hostPID", True),
    ("hostIPC", True),
    ("serviceAccountName", "admin"),
    ("automountServiceAccountToken", True),
    ("securityContext", {"runAsUser": 0, "sysctls": [{"name": "kernel.msgmax", "value": "1"}]}),
    ("containers", [{"name": "trainer", "securityContext": {"privileged": True}}]),
    ("initContainers", [{"name": "root", "image": "x", "securityContext": {"runAsUser": 0}}]),
    ("hostAliases", [{"ip": "127.0.0.1", "hostnames": ["x"]}]),
]
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["hostPath", "privileged", "x"]),
    lambda child: (
        st.lists(child, max_size=2)
        | st.dictionaries(
            st.sampled_from(["nodeAffinity", "hostPath", "requiredDuringSchedulingIgnoredDuringExecution"]),
            child,
            max_size=2,
        )
    ),
    max_leaves=5,
)
SOURCES: list[Object] = [
    {"emptyDir": {}},
    {"emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
    {"configMap": {"name": "c"}},
    {"persistentVolumeClaim": {"name": "p"}},
    {"hostPath": {"path": "/"}},
    {"nfs": {"server": "x", "path": "/"}},
    {"emptyDir": {}, "configMap": {"name": "c"}},
]
VOLUMES = st.builds(
    lambda name, path, source: {"name": name, "mountPath": path, **source},
    st.sampled_from(["a", "b", "data", "config", "Upper"]),
    st.sampled_from(["/extra", "/", "/mnt/aurl", "/tmp/../etc", "/proc", "/extra/more", "relative"]),
    st.sampled_from(SOURCES),
)
OVERLAYS = st.fixed_dictionaries(
    {},
    optional={
        "labels": st.dictionaries(KEYS, VALUES, max_size=2),
        "annotations": st.dictionaries(KEYS, VALUES, max_size=2),
        "nodeSelector": st.dictionaries(st.just("gpu"), VALUES, max_size=1),
        "tolerations": st.lists(
            st.fixed_dictionaries({"operator": st.sampled_from(["Exists", "Equal"])}), max_size=2
        ),
        "affinity": ANY_JSON,
        "topologySpreadConstraints": st.lists(ANY_JSON, max_size=2),
        "schedulerName": st.sampled_from(["default-scheduler", "mine"]),
        "runtimeClassName": st.sampled_from(["nvidia", "kata"]),
        "env": st.lists(
            st.fixed_dictionaries({"name": st.sampled_from(["A", "AURL_UID", "LD_PRELOAD"])}), max_size=2
        ),
        "volumes": st.lists(VOLUMES, max_size=2),
    },
)
SPECS = st.fixed_dictionaries(
    {"podTemplate": OVERLAYS},
    optional={
        "numNodes": st.integers(1, 3),
        "elastic": st.just({"minNodes": 1, "maxNodes": 3}),
        "resourcesPerNode": st.just({"limits": {"memory": "1Gi", "nvidia.com/gpu": 8}}),
        "gangScheduling": st.sampled_from(
            [{"provider": "Kueue", "queue": "q"}, {"provider": "SchedulerPlugins"}]
        ),
        "runPolicy": st.just({"hangDeadlineSeconds": 60}),
        "image": st.sampled_from(["x", "evil:latest"]),
    },
)
#: Specs that get placeholder pods if their overlay is valid: elastic, and placed by the operator itself.
ELASTIC_SPECS = SPECS.map(
    lambda spec: {
        **spec,
        "numNodes": 1,
        "elastic": {"minNodes": 1, "maxNodes": 3},
        "gangScheduling": {"provider": "Plain"},
    }
)


def breaches(pod: Object) -> list[str]:
    """Return where a pod violates the standard in its strictest form."""
    spec = pod["spec"]
    (container,) = spec["containers"]
    context, own = spec["securityContext"], container["securityContext"]
    volumes = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
    apparmor = {
        value
        for key, value in pod["metadata"].get("annotations", {}).items()
        if key.startswith("container.apparmor.security.beta.kubernetes.io/")
    }
    rules = {
        "host namespaces": not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(),
        "no other containers": not {"initContainers", "ephemeralContainers"} & spec.keys(),
        "no account": "serviceAccountName" not in spec and spec["automountServiceAccountToken"] is False,
        "volumes": volumes <= {"configMap", "emptyDir", "persistentVolumeClaim"},
        "not root": context["runAsNonRoot"] is True and context["runAsUser"] == 65532,
        "seccomp": context["seccompProfile"] == {"type": "RuntimeDefault"},
        "nothing else": context.keys()
        == {"runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup", "fsGroupChangePolicy", "seccompProfile"},
        "container": own
        == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "ports": all("hostPort" not in port for port in container["ports"]),
        "apparmor": all(v == "runtime/default" or v.startswith("localhost/") for v in apparmor),
        "seccomp annotations": "seccomp" not in str(pod["metadata"].get("annotations")),
        "owner": pod["metadata"]["labels"]["aurl.ai/role"] in ("prepare", "worker", "placeholder"),
    }
    return [name for name, kept in rules.items() if not kept]


def check_pods(world: World, seen: Counter[str]) -> None:
    """Check that every pod is restricted."""
    for pod in world.pods.values():
        assert breaches(pod) == [], pod
        seen[pod["metadata"]["labels"]["aurl.ai/role"]] += 1


def lives(spec: Object, seen: Counter[str]) -> None:
    """Take a job through its preparation, its workers and its placeholder pods."""
    world = World(make_job(**spec))
    world.settle()
    check_pods(world, seen)
    if "bach-prepare-0" not in world.pods:
        assert world.state == "Failed"
        seen["refused"] += 1
        return
    world.run("bach-prepare-0")
    world.succeed("bach-prepare-0", PREPARED)
    world.settle()
    check_pods(world, seen)
    workers = [name for name in world.pods if "-prepare-" not in name]
    assert workers
    world.run(*workers)
    world.settle()
    if "elastic" in spec:
        world.job["spec"]["numNodes"] = 3
        world.settle()
        check_pods(world, seen)


def test_every_pod_of_any_specification_is_restricted() -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=250, deadline=None)
    @given(SPECS | ELASTIC_SPECS)
    def any_specification(spec: Object) -> None:
        lives(spec, seen)

    any_specification()
    # The test is void if all specs are refused, or none.
    assert min(seen[kind] for kind in ("prepare", "worker", "placeholder", "refused")) >= 5, seen


def test_what_a_pod_may_not_have_cannot_be_asked_for() -> None:
    for key, value in HOSTILE:
        world = World(make_job(podTemplate={key: copy.deepcopy(value)}))
        world.settle()
        assert world.pods == {}
        assert f"spec.podTemplate.{key}" in world.message("Failed")
        seen: Counter[str] = Counter()
        lives({key: value}, seen)
        assert seen == {"refused": 1}
