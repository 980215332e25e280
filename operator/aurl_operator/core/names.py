"""Names, labels and owner references of the objects that the operator creates for a job."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aurl_operator.api.base import API_VERSION, KIND
from aurl_operator.api.status import Role
from aurl_operator.core.parsers import dig, text

Key = tuple[str, str]
"""Namespace and name of a job."""

MANAGER = "aurl-operator"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_JOB_NAME = "aurl.ai/job-name"
LABEL_JOB_UID = "aurl.ai/job-uid"
LABEL_ATTEMPT = "aurl.ai/attempt"
LABEL_ROLE = "aurl.ai/role"
LABEL_INDEX = "aurl.ai/replica-index"
LABEL_SIZE = "aurl.ai/num-nodes"
RESERVED_PREFIX = "aurl.ai/"
CHILD_SELECTOR = f"{LABEL_MANAGED_BY}={MANAGER},{LABEL_JOB_UID}"

#: Maximum length of a DNS label, which every generated name must be.
LONGEST_NAME = 63
#: Digits reserved for the attempt in the longest generated name.
ATTEMPT_DIGITS = 4
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True)
class JobRef:
    """The identity of a job."""

    name: str
    namespace: str
    uid: str

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return self.namespace, self.name


def job_ref(job: Mapping[str, Any]) -> JobRef | None:
    """Return the identity of a job object, or None if it lacks a name, namespace or UID."""
    name, namespace, uid = (text(dig(job, "metadata", key)) for key in ("name", "namespace", "uid"))
    return JobRef(name, namespace, uid) if name and namespace and uid else None


def pod_name(job: str, role: Role, attempt: int, index: int) -> str:
    """`<job>-prepare-<attempt>` for the prepare pod, `<job>-<attempt>-<index>` for all others."""
    return f"{job}-prepare-{attempt}" if role == "prepare" else f"{job}-{attempt}-{index}"


def service_name(job: str) -> str:
    """Name of the rendezvous Service."""
    return f"{job}-rdzv"


def config_map_name(job: str) -> str:
    """Name of the ConfigMap with the job's configuration."""
    return f"{job}-config"


def network_policy_name(job: str) -> str:
    """Name of the NetworkPolicy of the job's pods."""
    return f"{job}-pods"


def claim_name(job: str) -> str:
    """Name of the claim created from spec.storage.claimTemplate."""
    return f"{job}-data"


def name_problem(job: str, num_nodes: int) -> str | None:
    """Return one sentence on what is wrong with a job's name, or None."""
    if not _DNS_1035.fullmatch(job):
        return (
            f"The name {job!r} is not valid for a Service; use lower-case letters, digits and '-', "
            "start with a letter and end with a letter or digit."
        )
    attempt = 10**ATTEMPT_DIGITS - 1
    longest = max(
        pod_name(job, "prepare", attempt, 0), pod_name(job, "worker", attempt, num_nodes - 1), key=len
    )
    room = LONGEST_NAME - (len(longest) - len(job))
    if len(job) > room:
        return (
            f"The name {job!r} has {len(job)} characters, so pod names such as {longest!r} would exceed "
            f"{LONGEST_NAME} characters; use at most {room} characters."
        )
    return None


def common_labels(job: JobRef) -> dict[str, str]:
    """Return the labels of every object of a job."""
    return {LABEL_MANAGED_BY: MANAGER, LABEL_JOB_NAME: job.name, LABEL_JOB_UID: job.uid}


def owner_reference(job: JobRef) -> dict[str, Any]:
    """Return the reference that makes the garbage collector delete an object with its job.

    blockOwnerDeletion is left out: it needs a permission on the finalizers subresource and is of no use.
    """
    return {"apiVersion": API_VERSION, "kind": KIND, "name": job.name, "uid": job.uid, "controller": True}


def owner_uid(obj: Mapping[str, Any]) -> str:
    """Return the UID of the job that controls an object, or an empty string."""
    references = dig(obj, "metadata", "ownerReferences")
    for reference in references if isinstance(references, list) else []:
        if dig(reference, "kind") == KIND and dig(reference, "controller") is True:
            return text(dig(reference, "uid"))
    return ""
