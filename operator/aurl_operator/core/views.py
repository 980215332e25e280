"""Typed, immutable views of jobs and their objects, made once per version when it enters the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from aurl_operator.api.base import Model, parse_time
from aurl_operator.api.spec import JobSpec
from aurl_operator.api.status import Condition, JobStatus
from aurl_operator.core.conditions import is_true
from aurl_operator.core.names import JobRef, job_ref
from aurl_operator.core.parsers import dig, integer, items, mapping, text
from aurl_operator.core.validation import Problem, parse_spec


@dataclass(frozen=True)
class JobView:
    """One version of a job. Its spec and status are parsed on first use: many versions are never planned for.

    planned: a status that the operator has decided on but not written yet; it replaces the one in `raw`.
    """

    ref: JobRef
    version: str
    generation: int
    created: datetime | None
    deleting: bool
    managed_by: object
    raw: Mapping[str, Any] = field(repr=False)
    planned: JobStatus | None = None

    @cached_property
    def _parsed(self) -> tuple[JobSpec | None, tuple[Problem, ...]]:
        return parse_spec(self.raw.get("spec"))

    @property
    def spec(self) -> JobSpec | None:
        """The spec that the user wants, or None if it is invalid."""
        return self._parsed[0]

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The reasons why `spec` is None."""
        return self._parsed[1]

    @property
    def claim_name(self) -> str:
        """spec.storage.claimName, even of a spec that is otherwise invalid; empty if unset."""
        return text(dig(self.raw, "spec", "storage", "claimName"))

    @cached_property
    def status(self) -> JobStatus:
        """The latest status."""
        return self.planned or read_status(self.raw.get("status"))

    @cached_property
    def finished(self) -> bool:
        """True once the job has succeeded or failed."""
        return is_finished(self.status)

    def with_status(self, status: JobStatus) -> JobView:
        """Return the job as it will be once `status` is written."""
        return replace(self, planned=status)


def job_view(job: Mapping[str, Any]) -> JobView | None:
    """Return the view of a job, or None if it has no name, namespace or UID."""
    ref, metadata = job_ref(job), mapping(job.get("metadata"))
    if ref is None:
        return None
    return JobView(
        ref=ref,
        version=text(metadata.get("resourceVersion")),
        generation=integer(metadata.get("generation")) or 0,
        created=parse_time(metadata.get("creationTimestamp")),
        deleting=bool(metadata.get("deletionTimestamp")),
        managed_by=dig(job, "spec", "managedBy"),
        raw=job,
    )


@dataclass(frozen=True)
class ObjectView:
    """An object that a job owns or uses, other than a pod.

    phase: status.phase, of a claim. access_modes: of a claim. address: ClusterIP, of a Service.
    data: entries, of a ConfigMap.
    """

    name: str
    uid: str
    deleting: bool = False
    phase: str = ""
    access_modes: tuple[str, ...] = ()
    address: str = ""
    data: Mapping[str, str] = field(default_factory=dict)


def object_view(obj: Mapping[str, Any]) -> ObjectView:
    """Return the view of any object but a job or a pod."""
    address, modes = text(dig(obj, "spec", "clusterIP")), dig(obj, "spec", "accessModes")
    return ObjectView(
        name=text(dig(obj, "metadata", "name")),
        uid=text(dig(obj, "metadata", "uid")),
        deleting=bool(dig(obj, "metadata", "deletionTimestamp")),
        phase=text(dig(obj, "status", "phase")),
        access_modes=tuple(map(text, modes)) if isinstance(modes, list) else (),
        address="" if address == "None" else address,
        data={key: value for key, value in mapping(obj.get("data")).items() if isinstance(value, str)},
    )


def read_status(raw: object) -> JobStatus:
    """Parse a job's status. Fields that do not parse are left out one by one; the rest is kept."""
    if not isinstance(raw, Mapping):
        return JobStatus()
    try:
        return JobStatus.model_validate(raw)
    except (ValidationError, RecursionError):
        pass
    kept: dict[str, Any] = {}
    for name, field_info in JobStatus.model_fields.items():
        key = field_info.alias or name
        if key not in raw:
            continue
        value = [c for c in items(raw[key]) if _parses(Condition, c)] if key == "conditions" else raw[key]
        if _parses(JobStatus, {key: value}):
            kept[key] = value
    return JobStatus.model_validate(kept)


def _parses(model: type[Model], raw: object) -> bool:
    try:
        model.model_validate(raw)
    except (ValidationError, RecursionError):
        return False
    return True


def is_finished(status: JobStatus) -> bool:
    """True if the job has succeeded or failed. Any trace of that counts: it must never start again."""
    return (
        is_true(status.conditions, "Succeeded")
        or is_true(status.conditions, "Failed")
        or status.state in ("Succeeded", "Failed")
        or status.completion_time is not None
    )
