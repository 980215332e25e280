"""reconcile(key): sees, plans, acts and reports, until nothing is left to do now for one job."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from aurl_operator.api.base import API_VERSION, KIND, parse_time
from aurl_operator.api.status import JobStatus
from aurl_operator.apply import Applier, merge_patch
from aurl_operator.core import podgroups
from aurl_operator.core.actions import Children, Event, Options, Plan, Refusal
from aurl_operator.core.names import JobRef, Key, claim_name, job_ref
from aurl_operator.core.parsers import dig, text
from aurl_operator.core.plan import plan
from aurl_operator.core.podview import pod_view
from aurl_operator.core.status_reader import is_finished, read_status
from aurl_operator.kube.client import ApiError, Client
from aurl_operator.kube.event_recorder import EventRecorder
from aurl_operator.kube.progress_poller import ProgressPoller, Target
from aurl_operator.kube.store import Cache, Object
from aurl_operator.serve.metrics import Metrics

log = logging.getLogger(__name__)

#: plan() is asked again after its actions succeeded: one reconciliation does all that can be done now.
MAX_ROUNDS: Final = 6
#: Seconds for which a claim that the user named is taken to exist: many jobs may start on one at once.
CLAIM_TRUSTED_SECONDS: Final = 2.0
CLAIMS_KEPT: Final = 1024


class Conflict(Exception):
    """The job was changed meanwhile; look again."""


class Reconciler:
    """Does the work for one key at a time; several keys may be worked on concurrently."""

    def __init__(
        self,
        client: Client,
        cache: Cache,
        poller: ProgressPoller,
        recorder: EventRecorder,
        metrics: Metrics,
        options: Options,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client, self._cache, self._poller = client, cache, poller
        self._recorder, self._metrics, self._options, self._now = recorder, metrics, options, now
        self._applier = Applier(client, cache)
        self._refusals: dict[str, dict[str, Refusal]] = {}
        self._claims: dict[tuple[str, str], tuple[float, Object]] = {}

    async def reconcile(self, key: Key) -> float | None:
        """Bring one job on; seconds until it must be looked at again, None for never.

        Raises Conflict, ApiError and Unreachable: the caller tries again with back-off.
        """
        job = self._cache.job(key)
        who = job_ref(job) if job is not None else None
        if job is None or who is None:
            self._poller.follow(key, None)
            return None
        events: list[Event] = []
        refused_before = dict(self._refusals.get(who.uid, {}))
        wake: float | None = None
        status: JobStatus | None = None
        unwritten = False
        for _ in range(MAX_ROUNDS):
            children = await self._children(who, job)
            decided = plan(job, children, self._poller.latest(key), self._now(), self._options)
            wake = decided.requeue_after
            if decided.status is None:
                break
            status = decided.status
            events += decided.events
            if decided.status_first:
                job = await self._write(key, who, job, status, events)
                events, unwritten = [], False
                self._count(decided, who)
            else:
                job, unwritten = {**job, "status": _dump(status)}, True
            changed = await self._act(who, decided, refused_before)
            # What is written first is what makes the next step possible, and nobody else would call for that:
            # the write is no news to the watch.
            if not changed and not decided.status_first:
                break
        else:
            wake = 0.0  # more may be left to do
        if status is not None and unwritten:
            await self._write(key, who, job, status, events)
        if status is not None and is_finished(status):
            self.forget(who.uid)
        self._poller.follow(key, self._target(who, status))
        return wake

    # ---------------------------------------------------------------- seeing

    async def _children(self, who: JobRef, job: Object) -> Children:
        cache = self._cache
        return Children(
            pods=tuple(cache.children(who.uid, "Pod")),
            service=next(cache.children(who.uid, "Service"), None),
            config_map=cache.config_map(who.uid),
            network_policy=next(cache.children(who.uid, "NetworkPolicy"), None),
            pod_groups=tuple(group for kind in podgroups.KINDS for group in cache.children(who.uid, kind)),
            claim=await self._own_claim(who, job),
            named_claim=await self._named_claim(who, job),
            refusals=self._refusals.get(who.uid, {}),
        )

    async def _own_claim(self, who: JobRef, job: Object) -> Object | None:
        """The claim made from claimTemplate. Before one is called lost the API server is asked.

        Then any claim of that name will do: somebody may have restored it from a snapshot.
        """
        known = next(self._cache.children(who.uid, "PersistentVolumeClaim"), None)
        status = job.get("status")
        if known is not None or not dig(status, "claimUid") or is_finished(read_status(status)):
            return known
        return await self._claim(who, claim_name(who.name))

    async def _named_claim(self, who: JobRef, job: Object) -> Object | None:
        """The claim of spec.storage.claimName: not ours, not watched, of interest before pods run."""
        name = text(dig(job, "spec", "storage", "claimName"))
        waiting = dig(job, "status", "launch", "createdTime") is None
        if not name or not waiting or is_finished(read_status(job.get("status"))):
            return None
        place, now = (who.namespace, name), asyncio.get_running_loop().time()
        seen = self._claims.get(place)
        if seen is not None and now - seen[0] < CLAIM_TRUSTED_SECONDS:
            return seen[1]
        claim = await self._claim(who, name)
        self._claims.pop(place, None)
        if claim is not None:
            self._claims[place] = now, claim
            while len(self._claims) > CLAIMS_KEPT:
                self._claims.pop(next(iter(self._claims)))
        return claim

    async def _claim(self, who: JobRef, name: str) -> Object | None:
        try:
            return await self._client.request("GET", "PersistentVolumeClaim", who.namespace, name)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def _target(self, who: JobRef, status: JobStatus | None) -> Target | None:
        """The launcher of rank 0, if it runs."""
        if status is None or is_finished(status):
            return None
        for pod in self._cache.children(who.uid, "Pod"):
            view = pod_view(pod)
            if view is None or (view.role, view.attempt, view.index) != ("worker", status.attempt, 0):
                continue
            if view.phase == "Running" and view.ip and not view.leaving:
                return Target(view.ip, view.attempt)
        return None

    # ---------------------------------------------------------------- acting

    async def _act(self, who: JobRef, decided: Plan, known: dict[str, Refusal]) -> bool:
        """Carry out the actions; whether another look may find more to do at once."""
        if not decided.actions:
            return False
        applied = await self._applier.apply(who, decided.actions, known)
        refusals = self._refusals.setdefault(who.uid, {})
        for name in applied.created:
            refusals.pop(name, None)
        refusals.update(applied.refused)
        return applied.changed > 0 or bool(applied.refused)

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a job that is deleted or finished."""
        self._refusals.pop(uid, None)

    # ---------------------------------------------------------------- reporting

    async def _write(
        self, key: Key, who: JobRef, job: Object, status: JobStatus, events: list[Event]
    ) -> Object:
        """Write the status if it differs from the server's, then tell the events. The job as it is now."""
        known = self._cache.job(key)
        if known is None or dig(known, "metadata", "uid") != who.uid:
            raise Conflict("the job is gone")
        version = text(dig(job, "metadata", "resourceVersion"))
        if dig(known, "metadata", "resourceVersion") != version:
            raise Conflict("the job was changed meanwhile")
        before = known.get("status")
        patch = merge_patch(before, _dump(status))
        if patch:
            body = {"metadata": {"resourceVersion": version, "uid": who.uid}, "status": patch}
            try:
                answer = await self._client.request(
                    "PATCH", "Job", who.namespace, who.name, subresource="status", body=body
                )
            except ApiError as error:
                if error.code == 409:
                    await self._refresh(key, who)
                    raise Conflict("the job was changed meanwhile") from error
                if error.code == 404:
                    self._cache.drop_job(job)
                    raise Conflict("the job is gone") from error
                raise
            self._cache.put_job(answer)
            self._observe(who, job, read_status(before), status)
        for event in events:
            self._recorder.record(who, version, event)
        return self._cache.job(key) or job

    async def _refresh(self, key: Key, who: JobRef) -> None:
        """After a conflict the watch may lag: ask."""
        try:
            self._cache.put_job(await self._client.request("GET", "Job", who.namespace, who.name))
        except ApiError as error:
            if error.code != 404:
                raise
            known = self._cache.job(key)
            if known is not None:
                self._cache.drop_job(known)

    def _count(self, decided: Plan, who: JobRef) -> None:
        if decided.restarted_now:
            self._metrics.restarts.labels(decided.restarted_now).inc()
        if decided.failed_now:
            self._metrics.failures.labels(decided.failed_now).inc()
        status = decided.status
        failure = status.last_failure if status else None
        if decided.restarted_now and failure and status:
            log.info(
                "gang restarts: %s",
                failure.message,
                extra=_about(who, attempt=status.attempt, reason=failure.reason),
            )

    def _observe(self, who: JobRef, job: Object, before: JobStatus, after: JobStatus) -> None:
        """Log a new state, and measure how long a job took to its pods and to its first step."""
        if before.state != after.state:
            log.info(
                "state %s",
                after.state,
                extra=_about(who, attempt=after.attempt),
            )
        made = after.launch.created_time if after.launch and after.launch.role == "worker" else None
        had = before.launch.created_time if before.launch and before.launch.role == "worker" else None
        stepped = after.progress.first_step_time if after.progress else None
        step_before = before.progress.first_step_time if before.progress else None
        if after.attempt == 0:
            created = parse_time(dig(job, "metadata", "creationTimestamp"))
            pods, step = self._metrics.submit_to_pods, self._metrics.submit_to_first_step
        elif after.last_failure is not None and after.last_failure.attempt == after.attempt - 1:
            created = after.last_failure.time
            pods = self._metrics.recovery.labels("pods_created")
            step = self._metrics.recovery.labels("first_step")
        else:
            return
        if created is None:
            return
        if made and not had:
            pods.observe(max((made - created).total_seconds(), 0.0))
        # The progress of the attempt before stays until the new one tells its own.
        if stepped and stepped > created and (step_before is None or step_before < created):
            step.observe((stepped - created).total_seconds())


def _dump(status: JobStatus) -> dict[str, Any]:
    """The status as JSON, without empty texts: Kubernetes 1.20 reads those of a merge patch as null."""
    dumped: dict[str, Any] = _filled(status.model_dump(mode="json", by_alias=True, exclude_none=True))
    return dumped


def _filled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item) for key, item in value.items() if item != ""}
    return [_filled(item) for item in value] if isinstance(value, list) else value


def _about(who: JobRef, **more: object) -> dict[str, object]:
    return {"job": who.name, "namespace": who.namespace, "resource": f"{KIND}.{API_VERSION}", **more}
