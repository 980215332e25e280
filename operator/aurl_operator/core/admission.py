"""Answers the reviews of the validating webhook: refuses immediately what reconcile would refuse later.

Everything else is allowed, including any change that leaves the spec as it was: labels, finalizers and
suspension must work on a job that newer rules consider invalid.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aurl_operator.api.base import GROUP, PLURAL
from aurl_operator.api.spec import MANAGED_BY
from aurl_operator.core.acceptance import accept, refused_change
from aurl_operator.core.names import JobRef, Key
from aurl_operator.core.objects import accepted_spec
from aurl_operator.core.parsers import dig, integer, mapping, text
from aurl_operator.core.validation import ConfigCheck, parse_spec
from aurl_operator.core.views import JobView, ObjectView, is_finished, read_status

API_VERSION: Final = "admission.k8s.io/v1"
KIND: Final = "AdmissionReview"
#: Stands for the random suffix that the API server appends to metadata.generateName.
_GENERATED: Final = "xxxxx"
_HTTP_INVALID: Final = 422


class MalformedReviewError(ValueError):
    """The request is not an AdmissionReview that can be answered."""


@dataclass(frozen=True)
class Admission:
    """Judges requests to create or change a job.

    job, config_map: read from the operator's store; a job by namespace and name, its ConfigMap by the job's
    UID. namespaces: those of this operator; empty: all.
    """

    job: Callable[[Key], JobView | None]
    config_map: Callable[[str], ObjectView | None]
    check_config: ConfigCheck
    namespaces: Collection[str] = ()

    def refusal(self, request: Mapping[str, Any]) -> str:
        """Return one sentence on why a request is refused, empty if allowed. Raises MalformedReviewError."""
        resource = mapping(request.get("resource"))
        operation = request.get("operation")
        namespace, name = text(request.get("namespace")), text(request.get("name"))
        if (resource.get("group"), resource.get("resource")) != (GROUP, PLURAL):
            return ""
        if operation not in ("CREATE", "UPDATE") or (self.namespaces and namespace not in self.namespaces):
            return ""
        obj, old = request.get("object"), mapping(request.get("oldObject"))
        if not isinstance(obj, Mapping):
            raise MalformedReviewError(f"The request.object of this {operation} is not an object.")
        match request.get("subResource"):
            case None | "":
                return self._judge(obj, old if operation == "UPDATE" else None, namespace)
            case "scale":
                known = self.job((namespace, name))
                if known is None:
                    return ""
                nodes = integer(dig(obj, "spec", "replicas"))
                wanted = {**known.raw, "spec": {**mapping(known.raw.get("spec")), "numNodes": nodes}}
                return self._judge(wanted, known.raw, namespace)
        return ""

    def _judge(self, job: Mapping[str, Any], old: Mapping[str, Any] | None, namespace: str) -> str:
        """Return why a job may not be created or changed like this; `old` is None for a new one."""
        spec, before = mapping(job.get("spec")), mapping(dig(old, "spec"))
        if dig(job, "metadata", "deletionTimestamp") or (old is not None and _same(spec, before)):
            return ""
        manager = spec.get("managedBy", MANAGED_BY)
        if old is not None and manager != before.get("managedBy", MANAGED_BY):
            return "spec.managedBy cannot be changed after creation."
        if manager != MANAGED_BY:
            return ""
        ref = JobRef(_name(job), namespace, text(dig(job, "metadata", "uid")) or "new")
        status = read_status(dig(old, "status"))
        started = status.start_time is not None and not is_finished(status)
        wanted, problems = parse_spec(spec)
        config_map = self.config_map(ref.uid)
        # A job that the operator has not seen yet has no ConfigMap.
        remembered = accepted_spec(config_map) if config_map else parse_spec(before)[0]
        accepted = accept(ref, wanted, problems, remembered, started, self.check_config)
        if accepted.reason != "ChangeRefused":
            return accepted.complaint
        # Edits that were made while this webhook was down are reported in the job's conditions.
        edited = tuple(field for field in accepted.changed if spec.get(field) != before.get(field))
        return refused_change(edited) if edited else ""


def read_review(raw: bytes) -> Mapping[str, Any]:
    """Return the request of a review as the API server sends it. Raises MalformedReviewError."""
    try:
        review = json.loads(raw)
    except RecursionError as error:
        raise MalformedReviewError("The body is nested too deeply.") from error
    except ValueError as error:
        raise MalformedReviewError("The body is not valid JSON.") from error
    if dig(review, "kind") != KIND or dig(review, "apiVersion") != API_VERSION:
        raise MalformedReviewError(f"The body is not an {KIND} of {API_VERSION}.")
    request = dig(review, "request")
    if not isinstance(request, Mapping) or not text(request.get("uid")):
        raise MalformedReviewError("The review has no request with a uid.")
    return request


def answer(request: Mapping[str, Any], refusal: str) -> dict[str, Any]:
    """Return the review to send back: refused if a reason is given, otherwise allowed."""
    response: dict[str, Any] = {"uid": request["uid"], "allowed": not refusal}
    if refusal:
        response["status"] = {"code": _HTTP_INVALID, "reason": "Invalid", "message": refusal}
    return {"apiVersion": API_VERSION, "kind": KIND, "response": response}


def _same(spec: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """True if two specs differ at most in `suspend`, which may always change."""
    return {**spec, "suspend": None} == {**before, "suspend": None}


def _name(job: Mapping[str, Any]) -> str:
    name, prefix = (text(dig(job, "metadata", key)) for key in ("name", "generateName"))
    return name or f"{prefix}{_GENERATED}"
