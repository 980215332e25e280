"""Builds the pods of a job: a generated template with the user's narrow overlay."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aurl_operator.api.base import Quantity
from aurl_operator.api.spec import ExtraVolume, JobSpec
from aurl_operator.api.status import Role
from aurl_operator.api.trainer_contract import (
    CONFIG_DIR,
    CONFIG_FILE,
    HTTP_PORT,
    METRICS_PATH,
    RENDEZVOUS_PORT,
    RUN_DIR,
    VOLUME_DIR,
    Variable,
)
from aurl_operator.core.names import (
    LABEL_ATTEMPT,
    LABEL_INDEX,
    LABEL_JOB_UID,
    LABEL_ROLE,
    LABEL_SIZE,
    JobRef,
    claim_name,
    common_labels,
    config_map_name,
    owner_reference,
    pod_name,
)
from aurl_operator.core.parsers import items, mapping
from aurl_operator.core.podgroups import scheduling_hints
from aurl_operator.core.podview import CONTAINER

USER: Final = 65532
#: Holds a node until SIGTERM, and then exits immediately: PID 1 has no default handlers.
_HOLD: Final = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit()); signal.pause()"
_COMMANDS: Final[dict[Role, list[str]]] = {
    "prepare": ["aurl-trainer", "launch", "prepare"],
    "worker": ["aurl-trainer", "launch", "train"],
    "placeholder": ["python3", "-c", _HOLD],
}
_PLACEHOLDER_GRACE_SECONDS: Final = 5
#: A valid name of a node: a tampered status must not make pods invalid.
_DNS_LABEL: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_NODE_NAME: Final = re.compile(rf"(?!.{{254}}){_DNS_LABEL}(\.{_DNS_LABEL})*")
_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
#: Seconds that a pod tolerates an unreachable or not-ready node before it is evicted.
LOST_NODE_SECONDS: Final = 30
_PLAIN_RESOURCES: Final = ("cpu", "memory", "ephemeral-storage")


@dataclass(frozen=True)
class GangSettings:
    """Settings that all pods of a gang share.

    out_of_memory_restarts: how often the trainer halves its micro-batch. service_ip: the rendezvous address,
    which the prepare pod does not need. one_node: all pods must share a node.
    """

    role: Role
    attempt: int
    size: int
    image: str
    image_pull_policy: str
    service_ip: str = ""
    out_of_memory_restarts: int = 0
    avoided_nodes: tuple[str, ...] = ()
    one_node: bool = False


def build_pod(job: JobRef, spec: JobSpec, settings: GangSettings, index: int) -> dict[str, Any]:
    """Return one pod of a job."""
    overlay, placeholder = spec.pod_template, settings.role == "placeholder"
    grace = _PLACEHOLDER_GRACE_SECONDS if placeholder else spec.run_policy.termination_grace_period_seconds
    wanted = scheduling_hints(job, spec, settings.role, settings.attempt, settings.size)
    pod_spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(job, spec, settings, index)],
        "volumes": _volumes(job, spec),
    }
    pod_spec |= {"schedulerName": wanted.scheduler} if wanted.scheduler else {}
    pod_spec |= _placement(job, spec, settings)
    labels = common_labels(job) | {
        LABEL_ATTEMPT: str(settings.attempt),
        LABEL_ROLE: settings.role,
        LABEL_INDEX: str(index),
    }
    if settings.role == "worker":
        labels[LABEL_SIZE] = str(settings.size)
    annotations = {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(HTTP_PORT),
        "prometheus.io/path": METRICS_PATH,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(job.name, settings.role, settings.attempt, index),
            "namespace": job.namespace,
            "labels": overlay.labels | labels | wanted.labels,
            "annotations": annotations | overlay.annotations | wanted.annotations,
            "ownerReferences": [owner_reference(job)],
        },
        "spec": pod_spec,
    }


def _container(job: JobRef, spec: JobSpec, settings: GangSettings, index: int) -> dict[str, Any]:
    return {
        "name": CONTAINER,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": _COMMANDS[settings.role],
        "env": _environment(job, spec, settings, index),
        "ports": [
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": "rendezvous", "containerPort": RENDEZVOUS_PORT, "protocol": "TCP"},
        ],
        "resources": _resources(spec, settings.role),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
        # If the launcher cannot write its report, the last lines of the log become the message.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True},
            {"name": "data", "mountPath": VOLUME_DIR},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "run", "mountPath": RUN_DIR},
            *(_extra_mount(volume) for volume in spec.pod_template.volumes),
        ],
    }


def _environment(job: JobRef, spec: JobSpec, settings: GangSettings, index: int) -> list[dict[str, Any]]:
    workers = settings.role == "worker"
    values: dict[str, str] = {
        Variable.JOB_NAME: job.name,
        Variable.JOB_NAMESPACE: job.namespace,
        Variable.JOB_UID: job.uid,
        Variable.ATTEMPT: str(settings.attempt),
        Variable.NODE_RANK: str(index),
        Variable.NUM_NODES: str(settings.size),
        Variable.NPROC_PER_NODE: str(spec.num_proc_per_node if workers else 1),
        Variable.CONFIG: f"{CONFIG_DIR}/{CONFIG_FILE}",
        Variable.VOLUME: VOLUME_DIR,
        Variable.RUN_DIR: RUN_DIR,
        Variable.HTTP_PORT: str(HTTP_PORT),
        Variable.GRACE_SECONDS: str(spec.run_policy.termination_grace_period_seconds),
        # The root file system is read-only; this is where libraries can cache.
        "HOME": "/tmp",
    }
    if workers:
        values[Variable.RDZV_ENDPOINT] = rendezvous_endpoint(settings.service_ip)
        values[Variable.OUT_OF_MEMORY_RESTARTS] = str(settings.out_of_memory_restarts)
        if spec.run_policy.hang_deadline_seconds is not None:
            values[Variable.HANG_SECONDS] = str(spec.run_policy.hang_deadline_seconds)
    fields: dict[str, str] = {
        Variable.POD_IP: "status.podIP",
        Variable.NODE_NAME: "spec.nodeName",
        Variable.POD_NAME: "metadata.name",
    }
    return [
        *({"name": v.name, "value": v.value} for v in spec.pod_template.env if v.name not in values),
        *({"name": str(name), "value": value} for name, value in values.items()),
        *(
            {"name": str(name), "valueFrom": {"fieldRef": {"fieldPath": path}}}
            for name, path in fields.items()
        ),
    ]


def rendezvous_endpoint(service_ip: str) -> str:
    """Return `<ip>:29400`, with an IPv6 address in brackets."""
    return f"[{service_ip}]:{RENDEZVOUS_PORT}" if ":" in service_ip else f"{service_ip}:{RENDEZVOUS_PORT}"


def _resources(spec: JobSpec, role: Role) -> dict[str, dict[str, Quantity]]:
    """Return the resources per node; the prepare pod only tokenizes and requests no accelerator."""
    kinds = {"requests": spec.resources_per_node.requests, "limits": spec.resources_per_node.limits}
    chosen = {
        kind: {k: v for k, v in values.items() if role != "prepare" or k in _PLAIN_RESOURCES}
        for kind, values in kinds.items()
    }
    return {kind: values for kind, values in chosen.items() if values}


def _volumes(job: JobRef, spec: JobSpec) -> list[dict[str, Any]]:
    claim = spec.storage.claim_name or claim_name(job.name)
    # Memory volumes count toward the memory limit, which bounds them anyway.
    shared_memory = spec.resources_per_node.limits.get("memory", "1Gi")
    return [
        {
            "name": "config",
            "configMap": {
                "name": config_map_name(job.name),
                "items": [{"key": CONFIG_FILE, "path": CONFIG_FILE}],
            },
        },
        {"name": "data", "persistentVolumeClaim": {"claimName": claim}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory}},
        {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
        *(_extra_volume(volume) for volume in spec.pod_template.volumes),
    ]


def _extra_volume(volume: ExtraVolume) -> dict[str, Any]:
    if volume.config_map:
        return {"name": volume.name, "configMap": {"name": volume.config_map.name}}
    if volume.persistent_volume_claim:
        claim = volume.persistent_volume_claim.name
        return {"name": volume.name, "persistentVolumeClaim": {"claimName": claim}}
    scratch = volume.empty_dir.model_dump(by_alias=True, exclude_none=True) if volume.empty_dir else {}
    return {"name": volume.name, "emptyDir": scratch}


def _extra_mount(volume: ExtraVolume) -> dict[str, Any]:
    mount: dict[str, Any] = {"name": volume.name, "mountPath": volume.mount_path}
    return mount | ({"readOnly": True} if volume.read_only or volume.config_map else {})


def _placement(job: JobRef, spec: JobSpec, settings: GangSettings) -> Mapping[str, Any]:
    """Return the overlay's scheduling fields that are set, with the nodes to avoid excluded."""
    overlay = spec.pod_template.model_dump(
        by_alias=True,
        exclude_none=True,
        include={
            "node_selector",
            "affinity",
            "topology_spread_constraints",
            "priority_class_name",
            "runtime_class_name",
            "scheduler_name",
            "image_pull_secrets",
        },
    )
    overlay["tolerations"] = _tolerations(spec)
    affinity = without_nodes(overlay.get("affinity") or {}, settings.avoided_nodes)
    together = settings.one_node and settings.role != "prepare"
    overlay["affinity"] = on_one_node(affinity, job) if together else affinity
    return {key: value for key, value in overlay.items() if value}


def _tolerations(spec: JobSpec) -> list[dict[str, Any]]:
    """Return the overlay's tolerations, and short ones for a lost node instead of the default of 300 s.

    The peers of a lost pod can only wait, so waiting longer than a kubelet's restart gains nothing.
    """
    wished = spec.pod_template.tolerations
    given = {(toleration.key, toleration.effect) for toleration in wished}
    lost = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": LOST_NODE_SECONDS}
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        if not given & {(key, "NoExecute"), (key, None), (None, "NoExecute"), (None, None)}
    ]
    return [toleration.model_dump(by_alias=True, exclude_none=True) for toleration in wished] + lost


def without_nodes(affinity: Mapping[str, Any], nodes: Sequence[str]) -> Mapping[str, Any]:
    """Exclude nodes from an affinity, in each term of the node selector, because terms are alternatives.

    Nodes are compared by name: their label kubernetes.io/hostname may differ. Each requirement on a field
    takes one value.
    """
    exclusions = [
        {"key": "metadata.name", "operator": "NotIn", "values": [node]}
        for node in nodes
        if _NODE_NAME.fullmatch(node)
    ]
    if not exclusions:
        return affinity
    node_affinity = mapping(affinity.get("nodeAffinity"))
    required = mapping(node_affinity.get(_REQUIRED))
    terms = [
        {**term, "matchFields": [*items(term.get("matchFields")), *exclusions]}
        for term in items(required.get("nodeSelectorTerms")) or [{}]
    ]
    return {**affinity, "nodeAffinity": {**node_affinity, _REQUIRED: {"nodeSelectorTerms": terms}}}


def on_one_node(affinity: Mapping[str, Any], job: JobRef) -> Mapping[str, Any]:
    """Add the requirement that all workers and placeholder pods of a job share a node."""
    roles = {"key": LABEL_ROLE, "operator": "In", "values": ["worker", "placeholder"]}
    selector = {"matchLabels": {LABEL_JOB_UID: job.uid}, "matchExpressions": [roles]}
    term = {"labelSelector": selector, "topologyKey": "kubernetes.io/hostname"}
    pod_affinity = mapping(affinity.get("podAffinity"))
    return {
        **affinity,
        "podAffinity": {**pod_affinity, _REQUIRED: [*items(pod_affinity.get(_REQUIRED)), term]},
    }
