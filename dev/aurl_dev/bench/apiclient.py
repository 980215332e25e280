"""A client of the API server for benchmarks: many requests at once, and when pods were seen to be added."""

from __future__ import annotations

import asyncio
import json
import ssl
import tempfile
import time
from base64 import b64decode
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

CONNECTIONS = 32


class ApiClient:
    """Requests as the administrator, for the time of an `async with`."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._server = cluster["server"]
        tls = ssl.create_default_context(cadata=b64decode(cluster["certificate-authority-data"]).decode())
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(b64decode(user["client-certificate-data"]) + b64decode(user["client-key-data"]))
            pair.flush()
            tls.load_cert_chain(pair.name)
        self._tls = tls

    async def __aenter__(self) -> ApiClient:
        # Watches have connections of their own, so that requests find theirs free.
        self._session = self._open(CONNECTIONS)
        self._watching = self._open(0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        await self._watching.close()

    def _open(self, limit: int) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=None)  # waiting for a free connection is no failure
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=limit, ssl=self._tls), timeout=timeout, trust_env=False
        )

    async def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send one request; raises RuntimeError for anything but success."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": kind}
        async with self._session.request(method, self._server + path, data=data, headers=headers) as answer:
            text = await answer.text()
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path}: {answer.status} {text[:500]}")
            return dict(json.loads(text))

    async def events(self, path: str) -> aiohttp.ClientResponse:
        """An open watch; its content is one JSON event per line."""
        answer = await self._watching.get(f"{self._server}{path}?watch=true", read_bufsize=2**20)
        answer.raise_for_status()
        return answer


class PodWatch:
    """When the pods of each owner in a namespace were added, by this process's monotonic clock."""

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
            # The time first: parsing is this process's own business.
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
        """Wait until an owner has had so many pods; when the last of them was added."""
        while self.added[owner] < count:
            self._waiting[owner].clear()
            await self._waiting[owner].wait()
        return self.last[owner]

    async def pods(self, count: int) -> float:
        """Wait until so many pods were added in all; when the last of them was."""
        while self.total < count:
            self._news.clear()
            await self._news.wait()
        return max(self.last.values())
