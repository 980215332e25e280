"""Applies the actions of a plan, idempotently. The next plan learns what the API server refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aurl_operator.core.actions import (
    NAMESPACE_TERMINATING,
    Action,
    Create,
    Delete,
    DeleteJob,
    Patch,
    Refusal,
)
from aurl_operator.core.names import JobRef, owner_reference, owner_uid
from aurl_operator.core.parsers import dig, items, mapping
from aurl_operator.kube.client import ApiError, Client, NotLeading
from aurl_operator.kube.store import Store

log = logging.getLogger(__name__)


@dataclass
class Applied:
    """The outcome of a plan's actions, by the key of each action.

    changed: how many changed something. refused: those that failed. done: those that succeeded.
    """

    changed: int = 0
    refused: dict[str, Refusal] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)


class Applier:
    """Applies the actions of one job at a time and stores every answer immediately."""

    def __init__(self, client: Client, store: Store, now: Callable[[], datetime]) -> None:
        self._client, self._store, self._now = client, store, now

    async def apply(self, job: JobRef, actions: Sequence[Action], known: Mapping[str, Refusal]) -> Applied:
        """Apply actions concurrently. `known`: earlier refusals by action key, whose counts continue.

        Raises NotLeading after all actions were tried.
        """
        outcomes = await asyncio.gather(
            *(self._try(job, action, known.get(action.key)) for action in actions), return_exceptions=True
        )
        applied = Applied()
        for action, outcome in zip(actions, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                raise outcome
            if isinstance(outcome, Refusal):
                applied.refused[action.key] = outcome
                continue
            applied.changed += outcome
            applied.done.add(action.key)
        return applied

    async def _try(self, job: JobRef, action: Action, before: Refusal | None) -> Refusal | bool:
        """Apply one action. Return the refusal, or True if a further round may find more to do."""
        try:
            return await self._one(job, action)
        except NotLeading:
            raise
        except ApiError as error:
            code, message, retry_after = error.code, error.message, error.retry_after
        about = _about(job, code=code)
        if NAMESPACE_TERMINATING in message:
            log.info("leaving the job alone, its namespace is being deleted", extra=about)
        elif before is None or before.message != message:
            verb = type(action).__name__.lower()
            log.warning("%s %s %s refused: %s", verb, action.kind, action.name, message, extra=about)
        return Refusal(code, message, self._now(), before.count + 1 if before else 1, retry_after)

    async def _one(self, job: JobRef, action: Action) -> bool:
        """Apply one action. Return True if a further round may find more to do."""
        match action:
            case Create():
                await self._create(job, action)
                return True
            case Patch():
                answer = await self._client.request(
                    "PATCH", action.kind, job.namespace, action.name, body=action.patch
                )
                self._store.put_child(action.kind, answer)
                return True
            case Delete():
                await self._delete(job, action)
            case DeleteJob():
                if action.kept_claim is not None:
                    await self._disown_claim(job, action.kept_claim)
                body = {"preconditions": {"uid": action.uid}, "propagationPolicy": "Background"}
                await self._delete_tolerantly(job, action, body)
                log.info("job deleted after ttlSecondsAfterFinished", extra=_about(job))
        return False

    async def _create(self, job: JobRef, action: Create) -> None:
        try:
            answer = await self._client.request("POST", action.kind, job.namespace, body=action.manifest)
        except ApiError as error:
            if error.code != 409:
                raise
            await self._adopt(job, action)
        else:
            self._store.put_child(action.kind, answer)

    async def _adopt(self, job: JobRef, action: Create) -> None:
        """Take over an object that exists already if it belongs to the job: an earlier round created it."""
        try:
            found = await self._client.request("GET", action.kind, job.namespace, action.name)
        except ApiError as error:
            if error.code == 404:  # deleted in between; the next round creates it
                return
            raise
        if owner_uid(found) != job.uid:
            raise ApiError(409, "the name is taken")
        self._store.put_child(action.kind, found)

    async def _delete(self, job: JobRef, action: Delete) -> None:
        body: dict[str, Any] = {"preconditions": {"uid": action.uid}, "propagationPolicy": "Background"}
        if action.force:
            body["gracePeriodSeconds"] = 0
        answer = await self._delete_tolerantly(job, action, body)
        gone = {"metadata": {"uid": action.uid, "ownerReferences": [owner_reference(job)]}}
        if answer is None:
            self._store.drop_child(gone)
        elif dig(answer, "metadata", "uid") == action.uid and dig(answer, "metadata", "deletionTimestamp"):
            self._store.put_child(action.kind, answer)

    async def _disown_claim(self, job: JobRef, name: str) -> None:
        """Remove the job from the owners of a claim, so that the garbage collector leaves it alone."""
        try:
            claim = await self._client.request("GET", "PersistentVolumeClaim", job.namespace, name)
        except ApiError as error:
            if error.code == 404:
                return
            raise
        metadata = mapping(claim.get("metadata"))
        owners = [owner for owner in items(metadata.get("ownerReferences")) if owner.get("uid") != job.uid]
        patch = {"resourceVersion": metadata.get("resourceVersion"), "ownerReferences": owners}
        await self._client.request(
            "PATCH", "PersistentVolumeClaim", job.namespace, name, body={"metadata": patch}
        )

    async def _delete_tolerantly(
        self, job: JobRef, action: Delete | DeleteJob, body: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Delete an object and return it; None if it is gone already."""
        try:
            return await self._client.request("DELETE", action.kind, job.namespace, action.name, body=body)
        except ApiError as error:
            if error.code == 404 or (error.code == 409 and await self._replaced(job, action)):
                return None
            raise

    async def _replaced(self, job: JobRef, action: Delete | DeleteJob) -> bool:
        """True if the object is gone or its name belongs to another UID, one of several causes of a 409."""
        try:
            found = await self._client.request("GET", action.kind, job.namespace, action.name)
        except ApiError as error:
            if error.code == 404:
                return True
            raise
        return bool(dig(found, "metadata", "uid") != action.uid)


def _about(job: JobRef, **more: object) -> dict[str, object]:
    return {"job": job.name, "namespace": job.namespace, **more}


def merge_patch(old: object, new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON merge patch (RFC 7386) from one object to another; empty if they are equal."""
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
