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
#: Fields of every specification that may change while the job runs.
MUTABLE_FIELDS = frozenset({"suspend", "managed_by", "run_policy"})
#: Mutable fields that are not remembered; run_policy is, in case a later edit is invalid.
_NOT_REMEMBERED = {"suspend", "managed_by"}


def _metadata(job: JobRef, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": job.namespace,
        "labels": common_labels(job),
        "ownerReferences": [owner_reference(job)],
    }


def build_claim(job: JobRef, template: ClaimTemplate) -> dict[str, Any]:
    """The claim of spec.storage.claimTemplate."""
    spec: dict[str, Any] = {
        "accessModes": list(template.access_modes),
        "resources": {"requests": {"storage": str(template.size)}},
    }
    if template.storage_class_name is not None:
        spec["storageClassName"] = template.storage_class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _metadata(job, claim_name(job.name)),
        "spec": spec,
    }


def build_service(job: JobRef) -> dict[str, Any]:
    """The Service through which ranks meet: its address exists before any pod and needs no DNS."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(job, service_name(job.name)),
        "spec": {
            "type": "ClusterIP",
            "publishNotReadyAddresses": True,
            "selector": {LABEL_JOB_UID: job.uid, LABEL_ROLE: "worker", LABEL_INDEX: "0"},
            "ports": [
                {
                    "name": "rendezvous",
                    "port": RENDEZVOUS_PORT,
                    "targetPort": RENDEZVOUS_PORT,
                    "protocol": "TCP",
                },
                {"name": "http", "port": HTTP_PORT, "targetPort": HTTP_PORT, "protocol": "TCP"},
            ],
        },
    }


def build_network_policy(job: JobRef) -> dict[str, Any]:
    """Who may reach the job's pods: one another on all ports, everybody else the http port alone.

    Rendezvous and collectives have no authentication, and the latter listen on ports of their own choice.
    """
    selector = {"matchLabels": {LABEL_JOB_UID: job.uid}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(job, network_policy_name(job.name)),
        "spec": {
            "podSelector": selector,
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": selector}]},
                {"ports": [{"port": HTTP_PORT, "protocol": "TCP"}]},
            ],
        },
    }


def build_config_map(job: JobRef, spec: JobSpec) -> dict[str, Any]:
    """The ConfigMap with what the trainer reads and the specification that the running job was made from."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(job, config_map_name(job.name)),
        "data": config_data(spec),
    }


def config_data(spec: JobSpec) -> dict[str, str]:
    """`job.yaml` for the trainer, `spec.json` for the operator's memory of what it accepted."""
    document = {"dataset": spec.dataset, "training": spec.training}
    accepted = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=_NOT_REMEMBERED)
    return {
        CONFIG_FILE: _as_yaml(json.dumps(document, sort_keys=True)),
        ACCEPTED_KEY: json.dumps(accepted, sort_keys=True, separators=(",", ":")),
    }


@lru_cache(maxsize=4096)
def _as_yaml(document: str) -> str:
    """A JSON document as YAML; remembered, as it is asked for in every round and takes a millisecond."""
    return str(yaml.safe_dump(json.loads(document), sort_keys=True, allow_unicode=True))


def accepted_spec(config_map: ObjectView | None) -> JobSpec | None:
    """The specification that a job's ConfigMap was made from, None where it cannot be read."""
    raw = config_map.data.get(ACCEPTED_KEY) if config_map else None
    return _parse_accepted(raw) if raw is not None else None


@lru_cache(maxsize=4096)
def _parse_accepted(raw: str) -> JobSpec | None:
    try:
        return JobSpec.model_validate_json(raw)
    except (ValidationError, ValueError, RecursionError):
        return None


def dataset_hash(spec: JobSpec) -> str:
    """Short hash of dataset and storage: tells whether the prepared dataset is the one that is asked for."""
    storage = spec.storage.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return _short_hash({"dataset": spec.dataset, "storage": storage})


def spec_hash(spec: JobSpec) -> str:
    """Short hash of everything that may not change while the job runs.

    Defaults are left out: a field that a newer operator adds must not change the hash of a job that runs.
    """
    mutable = mutable_fields(spec)
    return _short_hash(
        spec.model_dump(mode="json", by_alias=True, exclude=set(mutable), exclude_defaults=True)
    )


def mutable_fields(spec: JobSpec) -> frozenset[str]:
    """Fields of this specification that may change while the job runs."""
    return MUTABLE_FIELDS | {"num_nodes"} if spec.elastic is not None else MUTABLE_FIELDS


def _short_hash(value: object) -> str:
    content = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()[:16]
