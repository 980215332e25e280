"""Records Kubernetes Events about jobs; repetitions are counted in one Event instead of flooding the API."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from aurl_operator.api.base import API_VERSION, KIND, format_time
from aurl_operator.core.actions import NAMESPACE_TERMINATING, Event
from aurl_operator.core.names import MANAGER, JobRef
from aurl_operator.kube.client import ApiError, Client

log = logging.getLogger(__name__)

#: The same event (job, reason, message) is written at most once in this many seconds, and counted otherwise.
QUIET_SECONDS: Final = 30.0
#: Delays between attempts to write an event during an outage of the API server: three minutes in total.
RETRY_SECONDS: Final = (0.5, 1, 2, 5, 10, 20, 20, 30, 30, 30, 30)
_REMEMBERED: Final = 4096
_QUEUE: Final = 2000


@dataclass
class _Series:
    name: str
    count: int
    first: datetime
    written: datetime | None


class EventRecorder:
    """Writes events in the background, so that no reconciliation waits for them; a full queue drops them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._series: OrderedDict[tuple[str, str, str], _Series] = OrderedDict()
        self._writing = False
        self._queue: asyncio.Queue[tuple[JobRef, str, Event]] = asyncio.Queue(_QUEUE)

    def record(self, job: JobRef, resource_version: str, event: Event) -> None:
        """Queue an event to be written."""
        try:
            self._queue.put_nowait((job, resource_version, event))
        except asyncio.QueueFull:
            log.warning(
                "event dropped: the queue is full", extra={"job": job.name, "namespace": job.namespace}
            )

    def idle(self) -> bool:
        """True if every event has been written."""
        return self._queue.empty() and not self._writing

    async def run(self) -> None:
        """Write events forever."""
        while True:
            job, resource_version, event = await self._queue.get()
            self._writing = True
            try:
                await self._write_patiently(job, resource_version, event)
            except ApiError as error:
                if NAMESPACE_TERMINATING in error.message:
                    continue
                log.warning(
                    "failed to write event %s: %s",
                    event.reason,
                    error,
                    extra={"job": job.name, "namespace": job.namespace},
                )
            finally:
                self._writing = False

    async def _write_patiently(self, job: JobRef, resource_version: str, event: Event) -> None:
        """Write one event; retry during an outage of the API server."""
        for delay in RETRY_SECONDS:
            try:
                await self._write(job, resource_version, event)
            except ApiError as error:
                if error.code not in (0, 429, *range(500, 600)):
                    raise
                await asyncio.sleep(max(delay, error.retry_after))
            else:
                return
        await self._write(job, resource_version, event)

    async def _write(self, job: JobRef, resource_version: str, event: Event) -> None:
        now = datetime.now(UTC)
        key = (job.uid, event.reason, event.message)
        series = self._series.get(key)
        if series is None:
            digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:16]
            series = self._series[key] = _Series(f"{job.name[:200]}.{digest}", 0, now, None)
            while len(self._series) > _REMEMBERED:
                self._series.popitem(last=False)
        self._series.move_to_end(key)
        series.count += 1
        if series.written and (now - series.written).total_seconds() < QUIET_SECONDS:
            return
        if series.written is None and await self._create(job, resource_version, event, series, now):
            series.written = now
            return
        patch = {"count": series.count, "lastTimestamp": format_time(now)}
        try:
            await self._client.request("PATCH", "Event", job.namespace, series.name, body=patch)
        except ApiError as error:
            if error.code != 404:
                raise
            await self._create(job, resource_version, event, series, now)  # it expired
        series.written = now

    async def _create(
        self, job: JobRef, resource_version: str, event: Event, series: _Series, now: datetime
    ) -> bool:
        """Create the Event; False if it exists, from an earlier run of the operator."""
        manifest: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": series.name, "namespace": job.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": job.name,
                "namespace": job.namespace,
                "uid": job.uid,
                "resourceVersion": resource_version,
            },
            "type": event.type,
            "reason": event.reason,
            "message": event.message[:1000],
            "count": series.count,
            "firstTimestamp": format_time(series.first),
            "lastTimestamp": format_time(now),
            "source": {"component": MANAGER},
            "reportingComponent": MANAGER,
            "reportingInstance": MANAGER,
        }
        try:
            await self._client.request("POST", "Event", job.namespace, body=manifest)
        except ApiError as error:
            if error.code != 409:
                raise
            return False
        return True
