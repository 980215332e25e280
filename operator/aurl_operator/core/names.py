"""Names, labels and owner references of everything that the operator makes for a job."""

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

#: A DNS label, which every generated name must be, has 63 characters at most.
LONGEST_NAME = 63
#: Attempts are counted with this many digits when the longest name is computed.
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
    """Name of the claim made from spec.storage.claimTemplate."""
    return f"{job}-data"


def name_problem(job: str, num_nodes: int) -> str | None:
    """Why a job cannot have this name, in one sentence, or None."""
    if not _DNS_1035.fullmatch(job):
        return (
            f"The name {job!r} cannot name a Service; use lower-case letters, digits and '-', "
            "begin with a letter and end with a letter or digit."
        )
    attempt = 10**ATTEMPT_DIGITS - 1
    longest = max(
        pod_name(job, "prepare", attempt, 0), pod_name(job, "worker", attempt, num_nodes - 1), key=len
    )
    room = LONGEST_NAME - (len(longest) - len(job))
    if len(job) > room:
        return (
            f"The name {job!r} has {len(job)} characters, but its pods are named up to {longest!r} and may "
            f"have {LONGEST_NAME}; use {room} characters at most."
        )
    return None


def common_labels(job: JobRef) -> dict[str, str]:
    """Labels of every object of a job."""
    return {LABEL_MANAGED_BY: MANAGER, LABEL_JOB_NAME: job.name, LABEL_JOB_UID: job.uid}


def owner_reference(job: JobRef) -> dict[str, Any]:
    """Reference that makes the garbage collector delete an object with its job.

    No blockOwnerDeletion: it needs a permission on the job's finalizers subresource and gives nothing here.
    """
    return {"apiVersion": API_VERSION, "kind": KIND, "name": job.name, "uid": job.uid, "controller": True}


def owner_uid(obj: Mapping[str, Any]) -> str:
    """UID of the job that controls an object, or an empty text."""
    references = dig(obj, "metadata", "ownerReferences")
    for reference in references if isinstance(references, list) else []:
        if dig(reference, "kind") == KIND and dig(reference, "controller") is True:
            return text(dig(reference, "uid"))
    return ""
