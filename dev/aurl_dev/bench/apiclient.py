"""An asynchronous client for the operator benchmark, and a watch that records when pods were added.

`Kube` would need a thread per request: a burst starts 1000 jobs concurrently, and as many threads would delay
the watch whose timestamps are the result.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

from aurl_dev import kubeconfig as kubeconfigs
from aurl_dev.kube import ApiError
from aurl_dev.waiting import DeadlineExceeded

CONNECTIONS = 32


class ApiClient:
    """Send requests as the kubeconfig's user, within an `async with`."""

    def __init__(self, kubeconfig: Path) -> None:
        access = kubeconfigs.read(kubeconfig)
        self._server, self._tls = access.server, access.tls

    async def __aenter__(self) -> ApiClient:
        # Watches use a separate session, so that they take no connection from requests.
        self._session = self._open(CONNECTIONS)
        self._watching = self._open(0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        await self._watching.close()

    def _open(self, limit: int) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=None)  # waiting for a free connection is not a failure
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=limit, ssl=self._tls),
            timeout=timeout,
            trust_env=False,
        )

    async def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send one request; raise ApiError unless it succeeds."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": kind}
        async with self._session.request(method, self._server + path, data=data, headers=headers) as answer:
            text = await answer.text()
            if answer.status >= 300:
                raise ApiError(method, path, answer.status, text[:500])
            return dict(json.loads(text))

    async def events(self, path: str) -> aiohttp.ClientResponse:
        """Open a watch; its content is one JSON event per line."""
        answer = await self._watching.get(f"{self._server}{path}?watch=true", read_bufsize=2**20)
        answer.raise_for_status()
        return answer


async def until(
    what: str, look: Callable[[], Awaitable[Any]], seconds: float = 60, every: float = 0.05
) -> Any:
    """Await `look` until it returns something true, as `wait_for` does; refused requests are repeated."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found := await look():
                return found
        except ApiError:
            if time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"waited {seconds:.0f} s for {what}")
        await asyncio.sleep(every)


class PodWatch:
    """Times at which the pods of each owner in a namespace were added, by this process's monotonic clock."""

    def __init__(self, client: ApiClient, namespace: str) -> None:
        self._client, self._path = client, f"/api/v1/namespaces/{namespace}/pods"
        self.added: Counter[str] = Counter()
        self.last: dict[str, float] = {}
        self.total = 0
        self._waiting: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._news = asyncio.Event()

    async def __aenter__(self) -> PodWatch:
        self._answer = await self._client.events(self._path)
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._answer.close()

    async def _read(self) -> None:
        async for line in self._answer.content:
            # Before parsing, which must not count.
            now = time.monotonic()
            event = json.loads(line)
            if event["type"] != "ADDED":
                continue
            owner = event["object"]["metadata"]["ownerReferences"][0]["name"]
            self.added[owner] += 1
            self.last[owner] = now
            self.total += 1
            self._waiting[owner].set()
            self._news.set()

    async def pods_of(self, owner: str, count: int) -> float:
        """Wait until an owner has had `count` pods; return when the last was added."""
        while self.added[owner] < count:
            self._waiting[owner].clear()
            await self._waiting[owner].wait()
        return self.last[owner]

    async def pods(self, count: int) -> float:
        """Wait until `count` pods were added in total; return when the last was."""
        while self.total < count:
            self._news.clear()
            await self._news.wait()
        return max(self.last.values())
