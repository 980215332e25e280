"""Lists everything from time to time: what a watch has lost, above all deletions, is noticed here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from aurl_operator.core.actions import Kind
from aurl_operator.core.names import CHILD_SELECTOR, Key
from aurl_operator.core.parsers import dig, items, text
from aurl_operator.kube.client import ApiError, Client, Unreachable
from aurl_operator.kube.store import Cache

log = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 5.0


class Resync:
    """Compares the cache with full lists; every job is looked at afterwards."""

    def __init__(
        self,
        client: Client,
        cache: Cache,
        kinds: tuple[Kind, ...],
        namespaces: tuple[str, ...],
        interval: float,
        enqueue: Callable[[Key], None],
        on_done: Callable[[float], None],
    ) -> None:
        self._client, self._cache, self._kinds, self._interval = client, cache, kinds, interval
        self._namespaces = namespaces or ("",)
        self._enqueue, self._on_done = enqueue, on_done
        self._lock = asyncio.Lock()
        self.finished_at: float | None = None
        self.seen = asyncio.Event()

    async def run(self) -> None:
        """Resync for ever; the first time at once, which also makes the operator ready."""
        await self._client.ready.wait()
        while True:
            await self.until_done()
            await asyncio.sleep(self._interval)

    async def until_done(self) -> None:
        """One comparison that begins now, tried again until it succeeds."""
        while True:
            try:
                async with self._lock:
                    await self._once()
                return
            except (ApiError, Unreachable) as error:
                delay = max(min(_RETRY_SECONDS, self._interval), getattr(error, "retry_after", 0.0))
                log.warning("resync failed, next try in %.0f s: %s", delay, error)
                await asyncio.sleep(delay)

    def announce(self) -> None:
        """Have every job that is known looked at."""
        for job in self._cache.jobs():
            self._enqueue(job.ref.key)

    async def _once(self) -> None:
        # Children first: a job that is seen before its pods would be thought to have none.
        await asyncio.gather(*(self._compare_children(kind) for kind in self._kinds))
        jobs = await self._list("Job", {})
        for obj in jobs.values():
            self._cache.put_job(obj)
        for job in self._cache.jobs():
            if await self._vanished("Job", job.raw, jobs):
                gone = self._cache.drop_job(job.raw)
                if gone:
                    self._enqueue(gone)
        self.announce()
        self.finished_at = time.monotonic()
        self.seen.set()
        self._on_done(time.time())

    async def _compare_children(self, kind: Kind) -> None:
        listed = await self._list(kind, {"labelSelector": CHILD_SELECTOR})
        for obj in listed.values():
            self._cache.put_child(kind, obj)
        for obj in self._cache.all_children(kind):
            if await self._vanished(kind, obj, listed):
                key = self._cache.drop_child(obj)
                about = {"namespace": key[0], "job": key[1]} if key else None
                log.info("a %s vanished unseen", kind, extra=about)

    async def _list(self, kind: str, query: Mapping[str, str]) -> dict[str, Mapping[str, Any]]:
        """All objects of a kind by UID, page by page."""
        found: dict[str, Mapping[str, Any]] = {}
        for namespace in self._namespaces:
            async for page in self._client.pages(kind, namespace, query):
                for obj in items(page.get("items")):
                    found[text(dig(obj, "metadata", "uid"))] = obj
        return found

    async def _vanished(
        self, kind: str, obj: Mapping[str, Any], listed: Mapping[str, Mapping[str, Any]]
    ) -> bool:
        """Whether an object that was not listed is gone; it may also be newer than the list."""
        uid = text(dig(obj, "metadata", "uid"))
        if uid in listed:
            return False
        namespace, name = text(dig(obj, "metadata", "namespace")), text(dig(obj, "metadata", "name"))
        try:
            found = await self._client.request("GET", kind, namespace, name)
        except ApiError as error:
            if error.code == 404:
                return True
            raise
        return text(dig(found, "metadata", "uid")) != uid
