"""Answers whether a job may be created or changed, by the same checks as reconcile. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aurl_operator.acceptance import accept
from aurl_operator.api.spec import MANAGED_BY
from aurl_operator.names import Identity
from aurl_operator.reading import dig, text
from aurl_operator.status_reader import is_finished, read_status
from aurl_operator.validation import ConfigCheck, parse_spec

#: What the API server appends to `generateName`; the name itself is not made yet when a job is reviewed.
_GENERATED: Final = "x" * 5
#: Gives the ConfigMap of a job, by its UID, where there is one.
ConfigMapOf = Callable[[str], Mapping[str, Any] | None]


class MalformedReviewError(ValueError):
    """What was sent is no AdmissionReview that can be answered."""


@dataclass(frozen=True)
class Verdict:
    """Whether the API server may store the object, and if not, why, in one sentence."""

    allowed: bool
    message: str = ""


def answer(review: object, config_map_of: ConfigMapOf, check_config: ConfigCheck) -> dict[str, Any]:
    """The AdmissionReview (admission.k8s.io/v1) that answers one. Raises MalformedReviewError."""
    request = dig(review, "request")
    uid = text(dig(request, "uid"))
    if not isinstance(request, Mapping) or not uid:
        raise MalformedReviewError("The body is no AdmissionReview with a request and its uid.")
    verdict = judge(request, config_map_of, check_config)
    response: dict[str, Any] = {"uid": uid, "allowed": verdict.allowed}
    if not verdict.allowed:
        response["status"] = {"code": 422, "reason": "Invalid", "message": verdict.message}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}


def judge(request: Mapping[str, Any], config_map_of: ConfigMapOf, check_config: ConfigCheck) -> Verdict:
    """Judge the job of an admission request.

    Only what a user changes is refused: labels, finalizers and the like of a job whose specification is not
    touched pass, whatever it says, or a job from before the webhook could never be mended or deleted.
    """
    new, old = request.get("object"), request.get("oldObject")
    if request.get("operation") not in ("CREATE", "UPDATE") or dig(new, "metadata", "deletionTimestamp"):
        return Verdict(True)
    before, wanted = dig(old, "spec"), dig(new, "spec")
    if isinstance(old, Mapping):
        if before == wanted:
            return Verdict(True)
        if dig(before, "managedBy") != dig(wanted, "managedBy"):
            return Verdict(False, "spec.managedBy cannot be changed after creation.")
    if dig(wanted, "managedBy") not in (None, MANAGED_BY):
        return Verdict(True)
    job = _identity(request, new)
    status = read_status(dig(old, "status"))
    started = status.start_time is not None and not is_finished(status)
    spec, problems = parse_spec(wanted)
    found = accept(job, spec, problems, config_map_of(job.uid), started, check_config)
    return Verdict(not found.reason, found.message)


def _identity(request: Mapping[str, Any], obj: object) -> Identity:
    """Whose specification it is; a name that the server has yet to make is as long as it will be."""
    given = text(dig(obj, "metadata", "name"))
    prefix = text(dig(obj, "metadata", "generateName"))
    name, uid = given or f"{prefix}{_GENERATED}", text(dig(obj, "metadata", "uid"))
    return Identity(name, text(request.get("namespace")), uid, generation=0, deleting=False)
