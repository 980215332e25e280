"""What pods need before they are created: claim, ConfigMap, Service, NetworkPolicy; what is missing of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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


def missing(
    who: JobRef, spec: JobSpec, children: Children, status: JobStatus, network_policy: bool
) -> Iterator[tuple[Kind, dict[str, Any]]]:
    """The objects to create. A claim that once was there is not: its data would silently be gone."""
    if children.config_map is None:
        yield "ConfigMap", build_config_map(who, spec)
    if children.service is None:
        yield "Service", build_service(who)
    if network_policy and children.network_policy is None:
        yield "NetworkPolicy", build_network_policy(who)
    if spec.storage.claim_template and children.claim is None and status.claim_uid is None:
        yield "PersistentVolumeClaim", build_claim(who, spec.storage.claim_template)


def config_ready(spec: JobSpec, config_map: ObjectView | None) -> bool:
    """Whether the ConfigMap says what the pods of this specification must read."""
    if config_map is None:
        return False
    return all(config_map.data.get(key) == value for key, value in config_data(spec).items())


def ready(spec: JobSpec, children: Children, network_policy: bool) -> bool:
    """Whether pods may be created, as far as the operator's own objects go."""
    return (
        (spec.storage.claim_name is not None or children.claim is not None)
        and (not network_policy or children.network_policy is not None)
        and config_ready(spec, children.config_map)
        and children.service is not None
        and children.service.address != ""
    )


def claim_uid(spec: JobSpec, children: Children, status: JobStatus) -> str | None:
    """What the status must remember of the claim that was made from claimTemplate."""
    if spec.storage.claim_template is None:
        return None
    return children.claim.uid if children.claim and children.claim.uid else status.claim_uid


def claim_replaced(spec: JobSpec, children: Children, status: JobStatus) -> bool:
    """Whether the claim is not the one that the job's dataset was written to."""
    return status.claim_uid is not None and claim_uid(spec, children, status) != status.claim_uid


def own_claim_blocker(who: JobRef, spec: JobSpec, children: Children, status: JobStatus) -> Blocker | None:
    """Whether the claim that was made for the job, and with it all of its work, is lost or about to be."""
    if spec.storage.claim_template is None:
        return None
    name, claim = claim_name(who.name), children.claim
    if claim is None:
        if status.claim_uid is None:
            return None  # It is being created; a refusal is told as such.
        saved = status.last_checkpoint
        lost = f"the dataset and the checkpoint of step {saved.step}" if saved else "what the job had saved"
        return Blocker(
            "ClaimLost",
            f"PersistentVolumeClaim {name!r} was deleted and with it {lost}; restore a claim of that name, "
            "or delete the job and create it again to begin anew.",
        )
    if claim.deleting:
        return Blocker(
            "ClaimLost",
            f"PersistentVolumeClaim {name!r} is being deleted and vanishes with the pods that still use it; "
            "copy from the pods what is to be kept.",
        )
    return _volume_blocker(claim)


def named_claim_blocker(who: JobRef, spec: JobSpec, children: Children) -> Blocker | None:
    """Whether the claim that the user named can be used. It is known only while pods are waited for."""
    name = spec.storage.claim_name
    if name is None:
        return None
    if children.named_claim is None:
        return Blocker(
            "ClaimNotFound",
            f"spec.storage.claimName names the PersistentVolumeClaim {name!r}, which does not exist in "
            f"namespace {who.namespace!r}; create it or use claimTemplate.",
        )
    return _volume_blocker(children.named_claim)


def _volume_blocker(claim: ObjectView) -> Blocker | None:
    if claim.phase != "Lost":
        return None
    return Blocker("ClaimLost", f"The volume of PersistentVolumeClaim {claim.name!r} is lost.")
