"""Watches what belongs to jobs: a list and a stream per kind and namespace, begun anew whatever ends them.

kopf watches the jobs themselves. A gang's pods, Service and ConfigMap change far more often, and what kopf
prepares for its handlers at each event costs many times what putting an object into the cache does.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

from aurl_operator.core.actions import Kind
from aurl_operator.core.names import CHILD_SELECTOR, Key
from aurl_operator.core.parsers import dig, integer, items, text
from aurl_operator.kube.client import ApiError, Client, Unreachable
from aurl_operator.kube.store import Cache, version

log = logging.getLogger(__name__)

#: The kinds that may belong to a job, with their plural names.
CHILDREN: Final[dict[Kind, str]] = {
    "Pod": "pods",
    "Service": "services",
    "ConfigMap": "configmaps",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "NetworkPolicy": "networkpolicies",
}
#: Seconds after which the API server ends a stream in good order; spread, so that not all end at once.
STREAM_SECONDS: Final = (240, 300)
#: A stream that ends sooner is begun anew only then.
SHORTEST_SECONDS: Final = 1.0
#: Seconds to wait after one, two … failures in a row; 429 and 503 may ask for more.
BACKOFF_SECONDS: Final = (0.2, 1.0, 2.0, 3.0, 5.0, 8.0, 10.0)
GONE: Final = 410


class ChildWatch:
    """The objects of one kind in one namespace ("": in all of them), from the API server into the cache.

    `heard` is told the namespace at each event, `enqueue` the job that an event is news for. A stream that
    brings nothing for `idle_seconds` is opened anew, as it may be dead.
    """

    def __init__(
        self,
        client: Client,
        cache: Cache,
        kind: Kind,
        namespace: str,
        *,
        idle_seconds: float,
        heard: Callable[[str], None],
        enqueue: Callable[[Key], None],
    ) -> None:
        self._client, self._cache, self._kind, self._namespace = client, cache, kind, namespace
        self._idle_seconds, self._heard, self._enqueue = idle_seconds, heard, enqueue
        self._version = ""
        """What has been seen: the next stream begins after it. Empty: a list must come first."""
        self._failures = 0

    async def run(self) -> None:
        """Watch for ever."""
        await self._client.ready.wait()
        while True:
            began = time.monotonic()
            try:
                if not self._version:
                    await self._list()
                await self._stream()
            except ApiError as error:
                if error.code == GONE:  # the server has forgotten what came after our version
                    self._version = ""
                await self._wait(began, error, error.retry_after)
            except Unreachable as error:
                await self._wait(began, error)

    async def _list(self) -> None:
        """Take all that is there, and drop what is known and was not listed, unless it is newer."""
        listed: set[str] = set()
        snapshot = ""
        async for page in self._client.pages(self._kind, self._namespace, {"labelSelector": CHILD_SELECTOR}):
            snapshot = text(dig(page, "metadata", "resourceVersion"))
            for obj in items(page.get("items")):
                listed.add(text(dig(obj, "metadata", "uid")))
                self._tell(self._cache.put_child(self._kind, obj))
        seen = integer(snapshot)
        for obj in self._cache.all_children(self._kind):
            if self._namespace and dig(obj, "metadata", "namespace") != self._namespace:
                continue
            made = version(obj)
            if dig(obj, "metadata", "uid") not in listed and seen and made and made <= seen:
                self._tell(self._cache.drop_child(obj))
        self._version = snapshot

    async def _stream(self) -> None:
        """Take events until the stream ends. Raises ApiError and Unreachable."""
        query = {
            "watch": "true",
            "labelSelector": CHILD_SELECTOR,
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(random.randint(*STREAM_SECONDS)),
        }
        began = time.monotonic()
        stream = self._client.watch(self._kind, self._namespace, query, self._idle_seconds)
        async with aclosing(stream) as events:
            async for event in events:
                self._take(event)
                self._failures = 0
        # A server that ends every stream at once is not to be asked in a busy loop.
        await asyncio.sleep(max(0.0, began + SHORTEST_SECONDS - time.monotonic()))

    def _take(self, event: Mapping[str, Any]) -> None:
        what, obj = event.get("type"), event.get("object")
        if not isinstance(obj, Mapping):
            return
        if what == "ERROR":
            self._version = ""
            raise ApiError(integer(obj.get("code")) or 500, text(obj.get("message")) or "no message")
        self._version = text(dig(obj, "metadata", "resourceVersion")) or self._version
        self._heard(text(dig(obj, "metadata", "namespace")))
        if what == "DELETED":
            self._tell(self._cache.drop_child(obj))
        elif what in ("ADDED", "MODIFIED"):
            self._tell(self._cache.put_child(self._kind, obj))

    def _tell(self, key: Key | None) -> None:
        if key is not None:
            self._enqueue(key)

    async def _wait(self, began: float, error: Exception, at_least: float = 0.0) -> None:
        """Wait longer after each failure in a row; an event, or a while without failure, ends a row."""
        if time.monotonic() - began > BACKOFF_SECONDS[-1]:
            self._failures = 0
        seconds = max(BACKOFF_SECONDS[min(self._failures, len(BACKOFF_SECONDS) - 1)], at_least)
        self._failures += 1
        where = {"namespace": self._namespace} if self._namespace else None
        log.warning(
            "the watch of %s ended and begins anew in %.1f s: %s",
            CHILDREN[self._kind], seconds, error, extra=where,
        )  # fmt: skip
        await asyncio.sleep(seconds)
