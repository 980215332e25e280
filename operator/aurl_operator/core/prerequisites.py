"""The objects that pods need before they are created: claim, ConfigMap, Service and NetworkPolicy."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from aurl_operator.api.spec import JobSpec
from aurl_operator.api.status import JobStatus
from aurl_operator.core.actions import Kind
from aurl_operator.core.conditions import Blocker
from aurl_operator.core.names import JobRef, claim_name
from aurl_operator.core.objects import (
    build_claim,
    build_config_map,
    build_network_policy,
    build_service,
    config_data,
)
from aurl_operator.core.observed import Children
from aurl_operator.core.views import ObjectView

#: Seconds after which a claim without a volume is reported.
CLAIM_PENDING_SECONDS: Final = 30.0


def missing(
    job: JobRef, spec: JobSpec, children: Children, status: JobStatus, network_policy: bool
) -> Iterator[tuple[Kind, dict[str, Any]]]:
    """Yield the objects to create. A claim that existed is not recreated: its data would be silently lost."""
    if children.config_map is None:
        yield "ConfigMap", build_config_map(job, spec)
    if children.service is None:
        yield "Service", build_service(job)
    if network_policy and children.network_policy is None:
        yield "NetworkPolicy", build_network_policy(job)
    if spec.storage.claim_template and children.claim is None and status.claim_uid is None:
        yield "PersistentVolumeClaim", build_claim(job, spec.storage.claim_template, spec.max_nodes)


def config_ready(spec: JobSpec, config_map: ObjectView | None) -> bool:
    """True if the ConfigMap holds what the pods of this spec must read."""
    if config_map is None:
        return False
    return all(config_map.data.get(key) == value for key, value in config_data(spec).items())


def ready(spec: JobSpec, children: Children, network_policy: bool) -> bool:
    """True if all objects that pods need are in place."""
    return (
        (spec.storage.claim_name is not None or children.claim is not None)
        and (not network_policy or children.network_policy is not None)
        and config_ready(spec, children.config_map)
        and children.service is not None
        and children.service.address != ""
    )


def claim_uid(spec: JobSpec, children: Children, status: JobStatus) -> str | None:
    """Return the UID to remember of the claim created from claimTemplate."""
    if spec.storage.claim_template is None:
        return None
    return children.claim.uid if children.claim and children.claim.uid else status.claim_uid


def claim_replaced(spec: JobSpec, children: Children, status: JobStatus) -> bool:
    """True if the claim is not the one that the dataset was written to."""
    return status.claim_uid is not None and claim_uid(spec, children, status) != status.claim_uid


def own_claim_blocker(job: JobRef, spec: JobSpec, children: Children, status: JobStatus) -> Blocker | None:
    """Return a blocker if the job's own claim, and with it all of its work, is lost or about to be."""
    if spec.storage.claim_template is None:
        return None
    name, claim = claim_name(job.name), children.claim
    if claim is None:
        if status.claim_uid is None:
            return None  # being created; a refusal has its own blocker
        saved = status.last_checkpoint
        lost = (
            f"the dataset and the checkpoint of step {saved.step}"
            if saved
            else "everything the job had saved"
        )
        return Blocker(
            "ClaimLost",
            f"PersistentVolumeClaim {name!r} was deleted, and {lost} with it; restore a claim of that name, "
            "or delete the job and create it again to start over.",
        )
    if claim.deleting:
        return Blocker(
            "ClaimLost",
            f"PersistentVolumeClaim {name!r} is being deleted and disappears with the pods that still use "
            "it; copy what you want to keep from these pods.",
        )
    return _volume_blocker(claim)


def named_claim_blocker(job: JobRef, spec: JobSpec, children: Children) -> Blocker | None:
    """Return a blocker if spec.storage.claimName cannot be used; checked only until all pods exist."""
    name = spec.storage.claim_name
    if name is None:
        return None
    if children.named_claim is None:
        return Blocker(
            "ClaimNotFound",
            f"PersistentVolumeClaim {name!r} of spec.storage.claimName does not exist in namespace "
            f"{job.namespace!r}; create it or use claimTemplate.",
        )
    if spec.max_nodes > 1 and children.named_claim.access_modes == ("ReadWriteOncePod",):
        return Blocker(
            "ClaimNotShared",
            f"PersistentVolumeClaim {name!r} of spec.storage.claimName is ReadWriteOncePod, so only one pod "
            "can use it; set spec.numNodes to 1, or name a claim that is ReadWriteMany.",
        )
    return _volume_blocker(children.named_claim)


def one_node(spec: JobSpec, children: Children) -> bool:
    """True if all pods must run on the same node, because the claim can be mounted on one node only."""
    claim = children.named_claim if spec.storage.claim_name else children.claim
    modes = claim.access_modes if claim else ()
    return spec.max_nodes > 1 and bool(modes) and "ReadWriteMany" not in modes


def pending_claim_blocker(
    job: JobRef, spec: JobSpec, children: Children, created: datetime | None, now: datetime
) -> tuple[Blocker | None, float | None]:
    """Return a blocker if the job's own claim has no volume long after the pods were created.

    Also return the seconds until that would be reported.
    """
    claim = children.claim
    if spec.storage.claim_template is None or claim is None or claim.phase != "Pending" or created is None:
        return None, None
    left = CLAIM_PENDING_SECONDS - (now - created).total_seconds()
    if left > 0:
        return None, left
    message = (
        f"PersistentVolumeClaim {claim_name(job.name)!r} has no volume after {CLAIM_PENDING_SECONDS:.0f} s; "
        "see its events."
    )
    if "ReadWriteMany" in claim.access_modes:
        message += (
            " If its storage class does not offer ReadWriteMany, set another one, or keep all pods on one "
            "node with spec.storage.claimTemplate.accessModes [ReadWriteOnce]."
        )
    return Blocker("ClaimPending", message), None


def _volume_blocker(claim: ObjectView) -> Blocker | None:
    if claim.phase != "Lost":
        return None
    return Blocker("ClaimLost", f"The volume of PersistentVolumeClaim {claim.name!r} is lost.")
