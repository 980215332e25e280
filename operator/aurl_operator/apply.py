"""Carries out the actions of a plan, idempotently; what the API server refuses is told to the next plan."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from aurl_operator.core import podgroups
from aurl_operator.core.actions import ENDING, Action, Create, Delete, DeleteJob, Patch, Refusal
from aurl_operator.core.names import JobRef, owner_reference, owner_uid
from aurl_operator.core.parsers import dig
from aurl_operator.kube.client import ApiError, Client
from aurl_operator.kube.store import Cache

log = logging.getLogger(__name__)

#: Answers that will not change by trying again at once: they are told to plan() instead.
_REFUSALS: Final = frozenset({400, 403, 422})


@dataclass
class Applied:
    """What came of the actions: how many changed something, and what was refused, by object name."""

    changed: int = 0
    refused: dict[str, Refusal] = field(default_factory=dict)
    created: set[str] = field(default_factory=set)


class Applier:
    """Applies actions of one job at a time; everything the API server answers goes into the cache at once."""

    def __init__(self, client: Client, cache: Cache) -> None:
        self._client, self._cache = client, cache

    async def apply(self, job: JobRef, actions: Sequence[Action], known: Mapping[str, Refusal]) -> Applied:
        """Carry out actions concurrently. Refusals are counted on from `known`.

        Raises ApiError (429, 5xx …) and Unreachable, after all actions were tried.
        """
        applied = Applied()
        outcomes = await asyncio.gather(
            *(self._one(job, action, known, applied) for action in actions), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return applied

    async def _one(self, job: JobRef, action: Action, known: Mapping[str, Refusal], applied: Applied) -> None:
        match action:
            case Create():
                await self._create(job, action, known, applied)
            case Patch():
                answer = await self._client.request(
                    "PATCH", action.kind, job.namespace, action.name, body=action.patch
                )
                self._cache.put_child(action.kind, answer)
                applied.changed += 1
            case Delete():
                await self._delete(job, action)
            case DeleteJob():
                body = {"preconditions": {"uid": action.uid}, "propagationPolicy": "Background"}
                await self._delete_tolerantly("Job", job.namespace, action.name, body)
                log.info("job deleted, its time to live is over", extra=_about(job))

    async def _create(
        self, job: JobRef, action: Create, known: Mapping[str, Refusal], applied: Applied
    ) -> None:
        try:
            answer = await self._client.request("POST", action.kind, job.namespace, body=action.manifest)
        except ApiError as error:
            if error.code == 409:
                await self._adopt(job, action, known, applied)
                return
            unknown = error.code == 404 and action.kind in podgroups.KINDS  # the scheduler is not installed
            if error.code not in _REFUSALS and not unknown:
                raise
            self._refuse(job, action, error.code, error.message, known, applied)
            return
        self._cache.put_child(action.kind, answer)
        applied.created.add(action.name)
        applied.changed += 1

    async def _adopt(
        self, job: JobRef, action: Create, known: Mapping[str, Refusal], applied: Applied
    ) -> None:
        """The name is taken: by an earlier self, which is success, or by somebody else."""
        try:
            found = await self._client.request("GET", action.kind, job.namespace, action.name)
        except ApiError as error:
            if error.code == 404:  # gone in between; the next round creates it
                applied.changed += 1
                return
            raise
        if owner_uid(found) == job.uid:
            self._cache.put_child(action.kind, found)
            applied.created.add(action.name)
            applied.changed += 1
            return
        self._refuse(job, action, 409, "the name is taken", known, applied)

    @staticmethod
    def _refuse(
        job: JobRef,
        action: Create,
        code: int,
        message: str,
        known: Mapping[str, Refusal],
        applied: Applied,
    ) -> None:
        before = known.get(action.name)
        count = before.count + 1 if before else 1
        applied.refused[action.name] = Refusal(code, message, datetime.now(UTC), count)
        if ENDING in message:
            log.info("left alone, the namespace is being deleted", extra=_about(job))
        elif before is None or before.message != message:
            log.warning("%s %s refused: %s", action.kind, action.name, message, extra=_about(job, code=code))

    async def _delete(self, job: JobRef, action: Delete) -> None:
        body: dict[str, Any] = {"preconditions": {"uid": action.uid}, "propagationPolicy": "Background"}
        if action.force:
            body["gracePeriodSeconds"] = 0
        answer = await self._delete_tolerantly(action.kind, job.namespace, action.name, body)
        gone = {"metadata": {"uid": action.uid, "ownerReferences": [owner_reference(job)]}}
        if answer is None:
            self._cache.drop_child(gone)
        elif dig(answer, "metadata", "uid") == action.uid and dig(answer, "metadata", "deletionTimestamp"):
            self._cache.put_child(action.kind, answer)

    async def _delete_tolerantly(
        self, kind: str, namespace: str, name: str, body: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Delete; None where the object with that UID is gone already."""
        try:
            return await self._client.request("DELETE", kind, namespace, name, body=body)
        except ApiError as error:
            if error.code in (404, 409):  # 409: the name now belongs to another UID
                return None
            raise


def _about(job: JobRef, **more: object) -> dict[str, object]:
    return {"job": job.name, "namespace": job.namespace, **more}


def merge_patch(old: object, new: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON merge patch (RFC 7386) that turns one object into another; empty if they are equal."""
    if not isinstance(old, Mapping):
        return dict(new)
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        if key not in old:
            patch[key] = value
        elif isinstance(value, Mapping) and isinstance(old[key], Mapping):
            inner = merge_patch(old[key], value)
            if inner:
                patch[key] = inner
        elif value != old[key]:
            patch[key] = value
    return patch
