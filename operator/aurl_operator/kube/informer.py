"""Keeps the store equal to the cluster, by list, watch and relist, and reports every change to handlers.

The informer watches the objects of jobs itself; kopf watches the jobs (see kopf_operator.py) and hands their
events to `receive_job`. Each resync lists everything again, so that a lost event, above all a lost deletion,
is noticed within one interval.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from aurl_operator.api.base import PLURAL
from aurl_operator.core.actions import Kind
from aurl_operator.core.names import CHILD_SELECTOR, Key
from aurl_operator.core.parsers import dig, integer, items, text
from aurl_operator.kube.client import ApiError, Client
from aurl_operator.kube.store import Store, version

log = logging.getLogger(__name__)

#: The kinds that may belong to a job, with the plural names of their resources.
CHILDREN: Final[dict[Kind, str]] = {
    "Pod": "pods",
    "Service": "services",
    "ConfigMap": "configmaps",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "NetworkPolicy": "networkpolicies",
}
#: Seconds after which the API server is asked to close a stream; random, so that not all close together.
STREAM_SECONDS: Final = (240, 300)
#: A stream that closes sooner is not reopened before this many seconds have passed.
SHORTEST_STREAM_SECONDS: Final = 1.0
#: Seconds to wait after one, two … consecutive failures; the server may ask for more (Retry-After).
BACKOFF_SECONDS: Final = (0.2, 1.0, 2.0, 3.0, 5.0, 8.0, 10.0)
#: Seconds to wait after a failed resync.
RESYNC_RETRY_SECONDS: Final = 5.0
#: A watch without events is reopened after the idle time; after this many without contact it is silent.
SILENT_AFTER_IDLE_TIMES: Final = 3.0
GONE: Final = 410


class Observer(Protocol):
    """Receives the informer's reports for metrics; `resource` is a plural name."""

    def watch_event(self, resource: str) -> None:
        """A watch delivered an event."""

    def watch_contact(self, resource: str) -> None:
        """A watch delivered an event or was opened."""

    def resynced(self) -> None:
        """A resync is complete."""


@dataclass(eq=False)
class Watch:
    """The watch of one kind in one namespace, or in all of them (""), and its state."""

    kind: Kind | Literal["Job"]
    namespace: str
    last_contact: float = field(default_factory=time.monotonic)
    """Time of its last event or opening (monotonic clock)."""
    resource_version: str = ""
    """The version from which to watch; empty: list first."""
    failures: int = 0
    """Consecutive failures."""

    @property
    def resource(self) -> str:
        """The plural name of the resource."""
        return PLURAL if self.kind == "Job" else CHILDREN[self.kind]

    def __str__(self) -> str:
        return f"{self.resource} in namespace {self.namespace}" if self.namespace else self.resource


class Informer:
    """Lists and watches jobs and their objects. No `namespaces`: the whole cluster."""

    def __init__(
        self,
        client: Client,
        store: Store,
        kinds: Iterable[Kind],
        namespaces: tuple[str, ...],
        *,
        idle_seconds: float,
        resync_seconds: float,
        observer: Observer,
    ) -> None:
        self._client, self._store, self._observer = client, store, observer
        self._clusterwide = not namespaces
        self._idle_seconds, self.resync_seconds = idle_seconds, resync_seconds
        places = namespaces or ("",)
        self._jobs = [Watch("Job", place) for place in places]
        self._children = [Watch(kind, place) for kind in kinds for place in places]
        self.watches = {(watch.resource, watch.namespace): watch for watch in (*self._jobs, *self._children)}
        self._handlers: list[Callable[[Key], None]] = []
        self._resyncing = asyncio.Lock()
        self.synced = asyncio.Event()
        """Set once everything has been listed."""
        self.resynced_at: float | None = None
        """Time of the last complete resync (monotonic clock)."""

    def add_handler(self, on_change: Callable[[Key], None]) -> None:
        """Call `on_change` with the key of each job that has changed, or whose objects have."""
        self._handlers.append(on_change)

    async def run(self) -> None:
        """Watch and resync forever."""
        await self._client.ready.wait()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._resync_periodically())
            for watch in self._children:
                tasks.create_task(self._list_and_watch(watch))

    # ---------------------------------------------------------------- list and watch

    async def _list_and_watch(self, watch: Watch) -> None:
        """List and watch one kind forever; list it again when the server no longer has the version."""
        while True:
            started = time.monotonic()
            try:
                if not watch.resource_version:
                    watch.resource_version = await self._list(watch)
                await self._watch(watch)
            except ApiError as error:
                if error.code == GONE:
                    watch.resource_version = ""
                await self._back_off(watch, started, error)

    async def _list(self, watch: Watch) -> str:
        """Store all objects of a kind, drop those that are gone, and return the version of the list."""
        listed: set[str] = set()
        snapshot = ""
        query = {} if watch.kind == "Job" else {"labelSelector": CHILD_SELECTOR}
        async for page in self._client.pages(watch.kind, watch.namespace, query):
            snapshot = text(dig(page, "metadata", "resourceVersion"))
            for obj in items(page.get("items")):
                listed.add(text(dig(obj, "metadata", "uid")))
                self._put(watch, obj)
        for obj in self._stored(watch):
            # An object newer than the list may still exist.
            made, seen = version(obj), integer(snapshot)
            if dig(obj, "metadata", "uid") not in listed and made and seen and made <= seen:
                key = self._drop(watch, obj)
                about = {"namespace": key[0], "job": key[1]} if key else None
                log.info("missed the deletion of a %s, dropped it", watch.kind, extra=about)
        return snapshot

    async def _watch(self, watch: Watch) -> None:
        """Take events until the stream closes. Raises ApiError."""
        query = {
            "watch": "true",
            "labelSelector": CHILD_SELECTOR,
            "resourceVersion": watch.resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(random.randint(*STREAM_SECONDS)),
        }
        opened = time.monotonic()
        async with aclosing(
            self._client.watch(watch.kind, watch.namespace, query, self._idle_seconds)
        ) as events:
            async for event in events:
                self._take(watch, event)
                watch.failures = 0
        # Do not reconnect in a busy loop to a server that closes every stream immediately.
        await asyncio.sleep(max(0.0, opened + SHORTEST_STREAM_SECONDS - time.monotonic()))

    def _take(self, watch: Watch, event: Mapping[str, Any]) -> None:
        what, obj = event.get("type"), event.get("object")
        if not isinstance(obj, Mapping):
            return
        if what == "ERROR":
            watch.resource_version = ""
            raise ApiError(integer(obj.get("code")) or 500, text(obj.get("message")) or "no message")
        watch.resource_version = text(dig(obj, "metadata", "resourceVersion")) or watch.resource_version
        self._contact(watch)
        self._observer.watch_event(watch.resource)
        if what == "DELETED":
            self._drop(watch, obj)
        elif what in ("ADDED", "MODIFIED"):
            self._put(watch, obj)

    def receive_job(self, deleted: bool, job: Mapping[str, Any]) -> None:
        """Take an event of the watch on jobs, which kopf runs."""
        watch = self._find(PLURAL, text(dig(job, "metadata", "namespace")))
        if watch is None:
            return
        self._contact(watch)
        self._observer.watch_event(watch.resource)
        if deleted:
            self._drop(watch, job)
        else:
            self._put(watch, job)

    async def _back_off(self, watch: Watch, started: float, error: ApiError) -> None:
        """Wait longer after each consecutive failure; an event, or a while without failure, resets that."""
        if time.monotonic() - started > BACKOFF_SECONDS[-1]:
            watch.failures = 0
        seconds = BACKOFF_SECONDS[min(watch.failures, len(BACKOFF_SECONDS) - 1)]
        seconds = max(seconds, error.retry_after)
        watch.failures += 1
        where = {"namespace": watch.namespace} if watch.namespace else None
        log.warning(
            "watch on %s closed, reconnecting in %.1f s: %s", watch.resource, seconds, error, extra=where
        )
        await asyncio.sleep(seconds)

    # ---------------------------------------------------------------- relist

    async def _resync_periodically(self) -> None:
        while True:
            await self.resync()
            await asyncio.sleep(self.resync_seconds)

    async def resync(self) -> None:
        """List everything, retrying until that succeeds, then report every job as changed."""
        while True:
            try:
                async with self._resyncing:
                    await self._relist()
                return
            except ApiError as error:
                seconds = max(min(RESYNC_RETRY_SECONDS, self.resync_seconds), error.retry_after)
                log.warning("resync failed, retrying in %.0f s: %s", seconds, error)
                await asyncio.sleep(seconds)

    async def _relist(self) -> None:
        # Children first: a job listed before its pods would look as if it had none.
        await asyncio.gather(*(self._list(watch) for watch in self._children))
        await asyncio.gather(*(self._list(watch) for watch in self._jobs))
        self.report_all()
        self.resynced_at = time.monotonic()
        self.synced.set()
        self._observer.resynced()

    def report_all(self) -> None:
        """Report every known job as changed."""
        for job in self._store.jobs():
            self._report(job.ref.key)

    # ---------------------------------------------------------------- liveness

    def opened(self, resource: str, namespace: str) -> None:
        """Note that the API server accepted a watch, ours or kopf's."""
        watch = self._find(resource, namespace)
        if watch is not None:
            self._contact(watch)

    def silent(self) -> dict[Watch, float]:
        """Return the watches without contact for too long, with the seconds since the last contact."""
        now, limit = time.monotonic(), SILENT_AFTER_IDLE_TIMES * self._idle_seconds
        idle = {watch: now - watch.last_contact for watch in self.watches.values()}
        return {watch: seconds for watch, seconds in idle.items() if seconds > limit}

    async def answers(self, watch: Watch) -> bool:
        """True if the API server answers a list of the watched kind."""
        try:
            await self._client.request("GET", watch.kind, watch.namespace, query={"limit": "1"})
        except ApiError:
            return False
        return True

    def _find(self, resource: str, namespace: str) -> Watch | None:
        return self.watches.get((resource, "" if self._clusterwide else namespace))

    def _contact(self, watch: Watch) -> None:
        watch.last_contact = time.monotonic()
        self._observer.watch_contact(watch.resource)

    # ---------------------------------------------------------------- store and handlers

    def _put(self, watch: Watch, obj: Mapping[str, Any]) -> None:
        key = self._store.put_job(obj) if watch.kind == "Job" else self._store.put_child(watch.kind, obj)
        self._report(key)

    def _drop(self, watch: Watch, obj: Mapping[str, Any]) -> Key | None:
        key = self._store.drop_job(obj) if watch.kind == "Job" else self._store.drop_child(obj)
        self._report(key)
        return key

    def _stored(self, watch: Watch) -> Iterable[Mapping[str, Any]]:
        jobs = (job.raw for job in self._store.jobs())
        known = jobs if watch.kind == "Job" else self._store.all_children(watch.kind)
        return [obj for obj in known if watch.namespace in ("", dig(obj, "metadata", "namespace"))]

    def _report(self, key: Key | None) -> None:
        if key is not None:
            for handler in self._handlers:
                handler(key)
