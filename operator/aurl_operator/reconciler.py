"""reconcile(key): observes, plans, applies and reports until nothing is left to do now for one job."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from aurl_operator.api.base import API_VERSION, KIND
from aurl_operator.api.status import JobStatus
from aurl_operator.apply import Applier, merge_patch
from aurl_operator.core.actions import Event, Plan, Refusal
from aurl_operator.core.names import JobRef, Key, claim_name
from aurl_operator.core.observed import Children, Observed, Options
from aurl_operator.core.plan import plan
from aurl_operator.core.views import JobView, ObjectView, object_view
from aurl_operator.kube.client import ApiError, Client
from aurl_operator.kube.event_recorder import EventRecorder
from aurl_operator.kube.progress_poller import ProgressPoller, Target
from aurl_operator.kube.store import Store
from aurl_operator.serve.metrics import Metrics

log = logging.getLogger(__name__)

#: One reconciliation plans again after its actions succeeded, at most this many times.
MAX_ROUNDS: Final = 6
#: Seconds after which the status is written while actions are still unanswered, as by a slow webhook.
REPORT_AFTER_SECONDS: Final = 2.0
#: Seconds for which a claim that the user named is assumed to still exist: many jobs may start on one.
CLAIM_TRUSTED_SECONDS: Final = 2.0
CLAIMS_KEPT: Final = 1024


class Conflict(Exception):
    """The job has changed in the meantime; reconcile again."""


class Reconciler:
    """Reconciles one key at a time; several keys may be worked on concurrently."""

    def __init__(
        self,
        client: Client,
        store: Store,
        poller: ProgressPoller,
        recorder: EventRecorder,
        metrics: Metrics,
        options: Options,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client, self._store, self._poller = client, store, poller
        self._recorder, self._metrics, self._options, self._now = recorder, metrics, options, now
        self._applier = Applier(client, store, now)
        self._refusals: dict[JobRef, dict[str, Refusal]] = {}
        self._claims: dict[Key, tuple[float, ObjectView]] = {}

    async def reconcile(self, key: Key) -> float | None:
        """Bring one job closer to its spec; seconds until the next look at it, None for never.

        Raises Conflict and ApiError: the caller retries with back-off.
        """
        job = self._store.job(key)
        if job is None:
            self._poller.follow(key, None)
            self._forget(key)
            return None
        events: list[Event] = []
        wake: float | None = None
        known_refusals = dict(self._refusals.get(job.ref, {}))
        for _ in range(MAX_ROUNDS):
            observed = await self._observe(job)
            decided = plan(observed)
            wake = decided.requeue_after
            if decided.status is None:
                break
            job = job.with_status(decided.status)
            events += decided.events
            if decided.status_first:
                job, events = await self._report(job, events), []
                self._count(job, decided)
            applying = asyncio.create_task(self._apply(job.ref, decided, known_refusals))
            try:
                if decided.actions:
                    await asyncio.wait([applying], timeout=REPORT_AFTER_SECONDS)
                    if not applying.done():
                        job, events = await self._report(job, events), []
                changed = await applying
            finally:
                applying.cancel()
            # After a status that had to be written first there may be more to do, and no event says so:
            # the watch reports nothing new.
            if not changed and not decided.status_first:
                break
        else:
            wake = 0.0  # more may be left to do
        if job.planned is not None:
            job = await self._report(job, events)
        self._poller.follow(key, self._target(job) if decided.status else None)
        return wake

    def _forget(self, key: Key) -> None:
        """Drop the refusals remembered for a job that is deleted."""
        self._refusals = {ref: refusals for ref, refusals in self._refusals.items() if ref.key != key}

    # ---------------------------------------------------------------- observe

    async def _observe(self, job: JobView) -> Observed:
        children = self._store.children(job.ref.uid)
        children = replace(
            children,
            claim=await self._own_claim(job, children),
            named_claim=await self._named_claim(job),
        )
        return Observed(
            job,
            children,
            self._poller.latest(job.ref.key),
            self._now(),
            self._options,
            self._refusals.get(job.ref, {}),
            self._client.clock_skew(),
        )

    async def _own_claim(self, job: JobView, children: Children) -> ObjectView | None:
        """Return the claim made from claimTemplate. Ask the API server before one counts as lost.

        Any claim of that name will do then: it may have been restored from a snapshot.
        """
        if children.claim is not None or not job.status.claim_uid or job.finished:
            return children.claim
        return await self._claim(job.ref.namespace, claim_name(job.ref.name))

    async def _named_claim(self, job: JobView) -> ObjectView | None:
        """Return the claim of spec.storage.claimName: not ours, not watched, needed only before pods run."""
        name, launch = job.claim_name, job.status.launch
        if not name or (launch is not None and launch.created_time is not None) or job.finished:
            return None
        place, now = (job.ref.namespace, name), asyncio.get_running_loop().time()
        seen = self._claims.get(place)
        if seen is not None and now - seen[0] < CLAIM_TRUSTED_SECONDS:
            return seen[1]
        claim = await self._claim(*place)
        self._claims.pop(place, None)
        if claim is not None:
            self._claims[place] = now, claim
            while len(self._claims) > CLAIMS_KEPT:
                self._claims.pop(next(iter(self._claims)))
        return claim

    async def _claim(self, namespace: str, name: str) -> ObjectView | None:
        try:
            return object_view(await self._client.request("GET", "PersistentVolumeClaim", namespace, name))
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def _target(self, job: JobView) -> Target | None:
        """Return the launcher of rank 0 if it is running."""
        if job.finished:
            return None
        for pod in self._store.children(job.ref.uid).pods:
            rank_0 = (pod.role, pod.attempt, pod.index) == ("worker", job.status.attempt, 0)
            if rank_0 and pod.phase == "Running" and not pod.ended and pod.ip and not pod.terminating:
                return Target(pod.ip, pod.attempt)
        return None

    # ---------------------------------------------------------------- apply

    async def _apply(self, job: JobRef, decided: Plan, known: dict[str, Refusal]) -> bool:
        """Apply the actions; True if another look may find more to do immediately."""
        if not decided.actions:
            return False
        applied = await self._applier.apply(job, decided.actions, known)
        before = self._refusals.pop(job, {})
        # The server works again: what it failed to do is retried immediately.
        refusals = {
            key: refusal
            for key, refusal in before.items()
            if key not in applied.done and not (applied.done and refusal.server_fault)
        }
        if refusals | applied.refused:
            self._refusals[job] = refusals | applied.refused
        return applied.changed > 0 or bool(applied.refused)

    # ---------------------------------------------------------------- report

    async def _report(self, job: JobView, events: list[Event]) -> JobView:
        """Write the planned status if it differs from the server's, record events, and return the job."""
        known = self._store.job(job.ref.key)
        if known is None or known.ref.uid != job.ref.uid:
            raise Conflict("the job is gone")
        if known.version != job.version:
            raise Conflict("the job has changed in the meantime")
        patch = merge_patch(known.raw.get("status"), _dump(job.status))
        if patch:
            await self._write(job, patch)
            self._metrics.observe_transition(job.created, known.status, job.status)
            if known.status.state != job.status.state:
                log.info("state %s", job.status.state, extra=_about(job))
        for event in events:
            self._recorder.record(job.ref, job.version, event)
        return self._store.job(job.ref.key) or job

    async def _write(self, job: JobView, patch: dict[str, Any]) -> None:
        """Patch the status of exactly this version of the job. Raises Conflict if there is a newer one."""
        ref = job.ref
        body = {"metadata": {"resourceVersion": job.version, "uid": ref.uid}, "status": patch}
        try:
            answer = await self._client.request(
                "PATCH", "Job", ref.namespace, ref.name, subresource="status", body=body
            )
        except ApiError as error:
            if error.code == 409:
                await self._refresh(ref)
                raise Conflict("the job has changed in the meantime") from error
            if error.code == 404:
                self._store.drop_job(job.raw)
                raise Conflict("the job is gone") from error
            raise
        self._store.put_job(answer)

    async def _refresh(self, job: JobRef) -> None:
        """Read the job after a conflict: the watch may lag."""
        try:
            self._store.put_job(await self._client.request("GET", "Job", job.namespace, job.name))
        except ApiError as error:
            if error.code != 404:
                raise
            known = self._store.job(job.key)
            if known is not None:
                self._store.drop_job(known.raw)

    def _count(self, job: JobView, decided: Plan) -> None:
        """Count restarts and failures, whose status is written by now."""
        self._metrics.count(decided)
        failure = job.status.last_failure
        if decided.restarted_now and failure:
            log.info("gang restarts: %s", failure.message, extra=_about(job, reason=failure.reason))


def _dump(status: JobStatus) -> dict[str, Any]:
    """Return the status as JSON without empty strings: Kubernetes 1.20 reads such patches as null."""
    dumped: dict[str, Any] = _without_empty(status.model_dump(mode="json", by_alias=True, exclude_none=True))
    return dumped


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_empty(item) for key, item in value.items() if item != ""}
    return [_without_empty(item) for item in value] if isinstance(value, list) else value


def _about(job: JobView, **more: object) -> dict[str, object]:
    ref = job.ref
    where = {"job": ref.name, "namespace": ref.namespace, "resource": f"{KIND}.{API_VERSION}"}
    return {**where, "attempt": job.status.attempt, **more}
