"""Reads a job's status back: what an earlier operator wrote, or whatever somebody made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from aurl_operator.api.status import Condition, JobStatus
from aurl_operator.core.conditions import is_true
from aurl_operator.core.parsers import items


def read_status(raw: object) -> JobStatus:
    """The typed status. What does not parse is left out, field by field; the rest is kept."""
    if not isinstance(raw, Mapping):
        return JobStatus()
    try:
        return JobStatus.model_validate(raw)
    except (ValidationError, RecursionError):
        pass
    kept: dict[str, Any] = {}
    for name, field in JobStatus.model_fields.items():
        key = field.alias or name
        if key not in raw:
            continue
        value = _sound_conditions(raw[key]) if key == "conditions" else raw[key]
        try:
            JobStatus.model_validate({key: value})
        except (ValidationError, RecursionError):
            continue
        kept[key] = value
    return JobStatus.model_validate(kept)


def _sound_conditions(raw: object) -> list[Mapping[str, Any]]:
    sound = []
    for item in items(raw):
        try:
            Condition.model_validate(item)
        except (ValidationError, RecursionError):
            continue
        sound.append(item)
    return sound


def is_finished(status: JobStatus) -> bool:
    """Whether the job ended; any trace of that counts, because a finished job must never start again."""
    return (
        is_true(status.conditions, "Succeeded")
        or is_true(status.conditions, "Failed")
        or status.state in ("Succeeded", "Failed")
        or status.completion_time is not None
    )
