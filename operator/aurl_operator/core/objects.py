"""Builds the PersistentVolumeClaim, ConfigMap, rendezvous Service and NetworkPolicy of a job."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any

import yaml
from pydantic import ValidationError

from aurl_operator.api.spec import ClaimTemplate, JobSpec
from aurl_operator.api.trainer_contract import CONFIG_FILE, HTTP_PORT, RENDEZVOUS_PORT
from aurl_operator.core.names import (
    LABEL_INDEX,
    LABEL_JOB_UID,
    LABEL_ROLE,
    JobRef,
    claim_name,
    common_labels,
    config_map_name,
    network_policy_name,
    owner_reference,
    service_name,
)
from aurl_operator.core.views import ObjectView

ACCEPTED_KEY = "spec.json"
#: Spec fields of every job that may change while it runs.
MUTABLE_FIELDS = frozenset({"suspend", "managed_by", "run_policy"})
#: Mutable fields that spec.json leaves out. It keeps run_policy, in case a later edit is invalid.
_NOT_REMEMBERED = {"suspend", "managed_by"}


def manifest(job: JobRef, api_version: str, kind: str, name: str, **content: Any) -> dict[str, Any]:
    """Return an object that belongs to a job; `content` holds its remaining fields."""
    metadata = {
        "name": name,
        "namespace": job.namespace,
        "labels": common_labels(job),
        "ownerReferences": [owner_reference(job)],
    }
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **content}


def build_claim(job: JobRef, template: ClaimTemplate, nodes: int) -> dict[str, Any]:
    """Return the claim of spec.storage.claimTemplate, for pods on this many nodes."""
    default = ["ReadWriteMany" if nodes > 1 else "ReadWriteOnce"]
    spec: dict[str, Any] = {
        "accessModes": template.access_modes or default,
        "resources": {"requests": {"storage": str(template.size)}},
    }
    if template.storage_class_name is not None:
        spec["storageClassName"] = template.storage_class_name
    return manifest(job, "v1", "PersistentVolumeClaim", claim_name(job.name), spec=spec)


def build_service(job: JobRef) -> dict[str, Any]:
    """Return the rendezvous Service: its address exists before any pod and needs no DNS."""
    ports = {"rendezvous": RENDEZVOUS_PORT, "http": HTTP_PORT}
    spec = {
        "type": "ClusterIP",
        "publishNotReadyAddresses": True,
        "selector": {LABEL_JOB_UID: job.uid, LABEL_ROLE: "worker", LABEL_INDEX: "0"},
        "ports": [
            {"name": name, "port": port, "targetPort": port, "protocol": "TCP"}
            for name, port in ports.items()
        ],
    }
    return manifest(job, "v1", "Service", service_name(job.name), spec=spec)


def build_network_policy(job: JobRef) -> dict[str, Any]:
    """Return the NetworkPolicy: the job's pods reach each other on all ports, others only the http port.

    Rendezvous and collectives have no authentication, and collectives listen on random ports.
    """
    selector = {"matchLabels": {LABEL_JOB_UID: job.uid}}
    spec = {
        "podSelector": selector,
        "policyTypes": ["Ingress"],
        "ingress": [
            {"from": [{"podSelector": selector}]},
            {"ports": [{"port": HTTP_PORT, "protocol": "TCP"}]},
        ],
    }
    name = network_policy_name(job.name)
    return manifest(job, "networking.k8s.io/v1", "NetworkPolicy", name, spec=spec)


def build_config_map(job: JobRef, spec: JobSpec) -> dict[str, Any]:
    """Return the ConfigMap with the trainer's configuration and the accepted spec."""
    return manifest(job, "v1", "ConfigMap", config_map_name(job.name), data=config_data(spec))


def config_data(spec: JobSpec) -> dict[str, str]:
    """Return `job.yaml` for the trainer, and the accepted spec as `spec.json` for the operator."""
    document = {"dataset": spec.dataset, "training": spec.training}
    accepted = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=_NOT_REMEMBERED)
    return {
        CONFIG_FILE: _as_yaml(json.dumps(document, sort_keys=True)),
        ACCEPTED_KEY: json.dumps(accepted, sort_keys=True, separators=(",", ":")),
    }


@lru_cache(maxsize=4096)
def _as_yaml(document: str) -> str:
    """Convert JSON to YAML; cached, because every round needs it and it takes a millisecond."""
    return str(yaml.safe_dump(json.loads(document), sort_keys=True, allow_unicode=True))


def accepted_spec(config_map: ObjectView | None) -> JobSpec | None:
    """Return the spec that a job's ConfigMap was made from, or None if it does not parse."""
    raw = config_map.data.get(ACCEPTED_KEY) if config_map else None
    return _parse_accepted(raw) if raw is not None else None


@lru_cache(maxsize=4096)
def _parse_accepted(raw: str) -> JobSpec | None:
    try:
        return JobSpec.model_validate_json(raw)
    except (ValidationError, ValueError, RecursionError):
        return None


def dataset_hash(spec: JobSpec) -> str:
    """Return a short hash of dataset and storage, which identifies a prepared dataset."""
    storage = spec.storage.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return _short_hash({"dataset": spec.dataset, "storage": storage})


def spec_hash(spec: JobSpec) -> str:
    """Return a short hash of all fields that may not change while the job runs.

    Defaults are left out: a field that a newer operator adds must not change the hash of a running job.
    """
    mutable = mutable_fields(spec)
    return _short_hash(
        spec.model_dump(mode="json", by_alias=True, exclude=set(mutable), exclude_defaults=True)
    )


def mutable_fields(spec: JobSpec) -> frozenset[str]:
    """Return the fields of this spec that may change while the job runs."""
    return MUTABLE_FIELDS | {"num_nodes"} if spec.elastic is not None else MUTABLE_FIELDS


def _short_hash(value: object) -> str:
    content = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()[:16]
