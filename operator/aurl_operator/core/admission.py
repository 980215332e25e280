"""Answers the reviews of a validating webhook: refuses at once what reconcile would refuse later. Pure.

Whatever is none of its business is allowed, and so is every change that leaves the specification as it was:
labels, finalizers and a suspension must be possible on a job that newer rules find invalid.
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
from aurl_operator.core.status_reader import is_finished, read_status
from aurl_operator.core.validation import ConfigCheck, parse_spec
from aurl_operator.core.views import JobView, ObjectView

API_VERSION: Final = "admission.k8s.io/v1"
KIND: Final = "AdmissionReview"
#: What the API server appends to metadata.generateName.
_GENERATED: Final = "xxxxx"
_HTTP_INVALID: Final = 422


class MalformedReviewError(ValueError):
    """What was sent is no AdmissionReview that could be answered."""


@dataclass(frozen=True)
class Admission:
    """What requests are judged by.

    `job` and `config_map` are what the operator has seen: a job by namespace and name, its ConfigMap by its
    UID. `namespaces` are those of this operator, none for all of them.
    """

    job: Callable[[Key], JobView | None]
    config_map: Callable[[str], ObjectView | None]
    check_config: ConfigCheck
    namespaces: Collection[str] = ()

    def refusal(self, request: Mapping[str, Any]) -> str:
        """Why a request is refused, in one sentence; empty if it is allowed. Raises MalformedReviewError."""
        resource = mapping(request.get("resource"))
        operation = request.get("operation")
        namespace, name = text(request.get("namespace")), text(request.get("name"))
        if (resource.get("group"), resource.get("resource")) != (GROUP, PLURAL):
            return ""
        if operation not in ("CREATE", "UPDATE") or (self.namespaces and namespace not in self.namespaces):
            return ""
        obj, old = request.get("object"), mapping(request.get("oldObject"))
        if not isinstance(obj, Mapping):
            raise MalformedReviewError(f"The request.object of this {operation} is no object.")
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
        """Why a job may not become what it is to be; `old` is None for a new one."""
        spec, before = mapping(job.get("spec")), mapping(dig(old, "spec"))
        if dig(job, "metadata", "deletionTimestamp") or (old is not None and _same(spec, before)):
            return ""
        manager = spec.get("managedBy", MANAGED_BY)
        if old is not None and manager != before.get("managedBy", MANAGED_BY):
            return "spec.managedBy cannot be changed after creation."
        if manager != MANAGED_BY:
            return ""
        who = JobRef(_name(job), namespace, text(dig(job, "metadata", "uid")) or "new")
        status = read_status(dig(old, "status"))
        started = status.start_time is not None and not is_finished(status)
        wanted, problems = parse_spec(spec)
        config_map = self.config_map(who.uid)
        # A job that the operator has not seen yet has no ConfigMap.
        remembered = accepted_spec(config_map) if config_map else parse_spec(before)[0]
        accepted = accept(who, wanted, problems, remembered, started, self.check_config)
        if accepted.reason != "ChangeRefused":
            return accepted.complaint
        # Edits that were made while this webhook was away are told in the job's conditions.
        edited = tuple(field for field in accepted.changed if spec.get(field) != before.get(field))
        return refused_change(edited) if edited else ""


def read_review(raw: bytes) -> Mapping[str, Any]:
    """The request of a review as the API server sends it. Raises MalformedReviewError."""
    try:
        review = json.loads(raw)
    except RecursionError as error:
        raise MalformedReviewError("The body is nested too deeply.") from error
    except ValueError as error:
        raise MalformedReviewError("The body is no JSON.") from error
    if dig(review, "kind") != KIND or dig(review, "apiVersion") != API_VERSION:
        raise MalformedReviewError(f"The body is no {KIND} of {API_VERSION}.")
    request = dig(review, "request")
    if not isinstance(request, Mapping) or not text(request.get("uid")):
        raise MalformedReviewError("The review holds no request with a uid.")
    return request


def answer(request: Mapping[str, Any], refusal: str) -> dict[str, Any]:
    """The review to send back: refused for a reason, or allowed without one."""
    response: dict[str, Any] = {"uid": request["uid"], "allowed": not refusal}
    if refusal:
        response["status"] = {"code": _HTTP_INVALID, "reason": "Invalid", "message": refusal}
    return {"apiVersion": API_VERSION, "kind": KIND, "response": response}


def _same(spec: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether two specifications differ in nothing but the suspension, which is always possible."""
    return {**spec, "suspend": None} == {**before, "suspend": None}


def _name(job: Mapping[str, Any]) -> str:
    name, prefix = (text(dig(job, "metadata", key)) for key in ("name", "generateName"))
    return name or f"{prefix}{_GENERATED}"
