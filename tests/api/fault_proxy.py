"""A proxy between the operator and the API server that fails on demand, as networks and API servers do.

The operator speaks plain HTTP to the proxy; the proxy speaks TLS to the API server, as the administrator.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

import aiohttp
from aiohttp import web
from yarl import URL

from aurl_dev import kubeconfig as kubeconfigs

T = TypeVar("T")

#: The fate of a request: answered with an error, never or late; its answer lost; its connection refused.
Fault = Literal["answer", "hang", "slow", "lose_answer", "refuse"]
_DROPPED = {"Host", "Content-Length", "Transfer-Encoding", "Connection", "Accept-Encoding"}


@dataclass
class Rule:
    """A fault for requests with one of `methods` (empty: all) whose path and query contain a text."""

    fault: Fault
    methods: tuple[str, ...] = ()
    containing: str = ""
    code: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    #: How many requests it affects; negative: all until `heal`.
    times: int = -1
    hits: int = 0

    def takes(self, request: web.Request) -> bool:
        """Return whether the rule applies to a request, and count it."""
        if self.times == 0 or (self.methods and request.method not in self.methods):
            return False
        if self.containing not in request.path_qs:
            return False
        self.times -= 1
        self.hits += 1
        return True


@dataclass(eq=False)
class _Stream:
    """An open watch through the proxy."""

    path: str
    response: web.StreamResponse
    transport: asyncio.Transport
    deaf: bool = False


class FaultProxy:
    """A proxy on a free loopback port, in its own thread, within a `with`."""

    def __init__(self, kubeconfig: Path) -> None:
        self._access = kubeconfigs.read(kubeconfig)
        self._rules: list[Rule] = []
        self._streams: set[_Stream] = set()
        self._transports: set[asyncio.Transport] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._directory = tempfile.TemporaryDirectory()
        self.requests: list[tuple[float, str, str]] = []

    # ---------------------------------------------------------------- life

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self._port = self._do(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._directory.cleanup()

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig for access through the proxy."""
        path = Path(self._directory.name) / "kubeconfig"
        cluster = {"server": f"http://127.0.0.1:{self._port}"}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": cluster}],
            "users": [{"name": "proxy", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
            "current-context": "proxy",
        }
        path.write_text(json.dumps(document))
        return path

    # ---------------------------------------------------------------- faults

    def add(self, fault: Fault, *methods: str, **options: Any) -> Rule:
        """Inject a fault."""
        rule = Rule(fault, methods, **options)
        self._call(lambda: self._rules.append(rule))
        return rule

    def heal(self) -> None:
        """Remove all faults; deaf streams stay deaf, because their connections are lost."""
        self._call(self._rules.clear)

    def cut(self) -> None:
        """Abort every connection."""

        def do() -> None:
            for transport in self._transports:
                transport.abort()

        self._call(do)

    def deafen(self, containing: str) -> int:
        """Stop delivering events on watches whose path contains a text, but keep them open."""

        def do() -> int:
            chosen = [stream for stream in self._streams if containing in stream.path]
            for stream in chosen:
                stream.deaf = True
            return len(chosen)

        return self._call(do)

    def send(self, containing: str, event: dict[str, Any]) -> int:
        """Send an event on the watches whose path contains a text, and close them."""

        async def do() -> int:
            chosen = [stream for stream in self._streams if containing in stream.path]
            for stream in chosen:
                await stream.response.write(json.dumps(event).encode() + b"\n")
                await stream.response.write_eof()
                stream.transport.close()
            return len(chosen)

        return self._do(do())

    def watches(self, containing: str) -> int:
        """Return the number of open watches whose path contains a text, without deaf ones."""
        return self._call(
            lambda: sum(containing in stream.path and not stream.deaf for stream in self._streams)
        )

    def writes(self) -> list[str]:
        """Return the write requests received, in order, answered or not, without those for leases."""
        return self._call(
            lambda: [
                f"{method} {where}"
                for _, method, where in self.requests
                if method != "GET" and "/leases" not in where
            ]
        )

    # ---------------------------------------------------------------- inside

    def _do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def _call(self, function: Callable[[], T]) -> T:
        async def do() -> T:
            return function()

        return self._do(do())

    async def _start(self) -> int:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._access.tls),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return int(self._runner.addresses[0][1])

    async def _stop(self) -> None:
        for transport in self._transports:
            transport.abort()
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        self._transports.add(transport)
        self.requests.append((self._loop.time(), request.method, request.path_qs))
        rule = next((rule for rule in self._rules if rule.takes(request)), None)
        body = await request.read()
        fault = rule.fault if rule else None
        if rule is not None and fault == "answer":
            status = {"kind": "Status", "apiVersion": "v1", "code": rule.code, "message": "a fault on demand"}
            return web.json_response(status, status=rule.code, headers=rule.headers)
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "refuse":
            transport.abort()
            return web.Response()
        if rule is not None and fault == "slow":
            await asyncio.sleep(rule.seconds)
        headers = {name: value for name, value in request.headers.items() if name not in _DROPPED}
        url = f"{self._access.server}{request.raw_path}"
        async with self._session.request(
            request.method,
            URL(url, encoded=True),
            data=body or None,
            headers=headers,
            skip_auto_headers=("Content-Type", "Accept", "Accept-Encoding"),
        ) as answer:
            if "watch=true" in request.path_qs and answer.status == 200:
                return await self._stream(request, answer, transport)
            content = await answer.read()
            if fault == "lose_answer":
                transport.abort()
            kept = {name: value for name, value in answer.headers.items() if name not in _DROPPED}
            return web.Response(status=answer.status, body=content, headers=kept)

    async def _stream(
        self, request: web.Request, answer: aiohttp.ClientResponse, transport: asyncio.Transport
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=200, headers={"Content-Type": "application/json"})
        await response.prepare(request)
        async with self._listed(_Stream(request.path_qs, response, transport)) as stream:
            async for chunk in answer.content.iter_any():
                if not stream.deaf:
                    await response.write(chunk)
            if stream.deaf:
                await asyncio.sleep(3600)
        return response

    @asynccontextmanager
    async def _listed(self, stream: _Stream) -> AsyncIterator[_Stream]:
        self._streams.add(stream)
        try:
            yield stream
        finally:
            self._streams.discard(stream)
