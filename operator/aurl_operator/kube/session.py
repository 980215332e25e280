"""Opens HTTP sessions with the API server: credentials, a limit on connections, a count of requests."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import aiohttp

#: Connections of a session for requests; each watch needs one more.
CONNECTIONS: Final = 32
_RESOURCE: Final = re.compile(
    r"/(?:api/v1|apis/[^/]+/[^/]+)(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<resource>[a-z]+)(?:/[^/]+(?:/(?P<sub>[a-z]+))?)?$"
)


@dataclass
class TokenFile:
    """A service account's token, which the kubelet rotates in its file."""

    path: Path
    _token: str = ""
    _read_at: float = float("-inf")

    def header(self) -> str:
        """The Authorization header; the file is read at most once a minute."""
        now = asyncio.get_running_loop().time()
        if now - self._read_at >= 60:
            self._token = self.path.read_text(encoding="utf-8").strip()
            self._read_at = now
        return f"Bearer {self._token}"


@dataclass(frozen=True)
class RequestObserver:
    """Called about every request of a session, whoever sends it.

    `on_request` gets verb, resource and status code (0: no answer), `on_watch_opened` the resource and the
    namespace ("": all) of a watch that the API server accepted.
    """

    on_request: Callable[[str, str, int], None]
    on_watch_opened: Callable[[str, str], None]


def open_session(
    *,
    ssl_context: ssl.SSLContext,
    headers: Mapping[str, str],
    token: TokenFile | None,
    connections: int,
    observer: RequestObserver,
) -> aiohttp.ClientSession:
    """Open a session; the caller closes it. A `token` replaces the Authorization header of each request."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, ssl=ssl_context),
        headers={**headers, "User-Agent": "aurl-operator"},
        trace_configs=[_trace(observer)],
        middlewares=(_authorization(token),) if token else (),
        trust_env=False,
    )


def _authorization(token: TokenFile) -> aiohttp.ClientMiddlewareType:
    async def authorize(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        request.headers["Authorization"] = token.header()
        return await handler(request)

    return authorize


def _trace(observer: RequestObserver) -> aiohttp.TraceConfig:
    def report(method: str, url: Any, code: int) -> None:
        resource, namespace = resource_of(url.path)
        verb = method.lower()
        if verb == "get" and url.query.get("watch"):
            verb = "watch"
            if code == 200:
                observer.on_watch_opened(resource, namespace)
        elif verb == "get" and url.path.endswith(f"/{resource}"):
            verb = "list"
        observer.on_request(verb, resource, code)

    async def on_end(
        session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestEndParams
    ) -> None:
        report(params.method, params.url, params.response.status)

    async def on_exception(
        session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestExceptionParams
    ) -> None:
        report(params.method, params.url, 0)

    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(on_end)
    trace.on_request_exception.append(on_exception)
    return trace


def resource_of(path: str) -> tuple[str, str]:
    """The resource (`pods`, `aurltrainingjobs/status`, `other`) and the namespace ("": all) of a URL path."""
    found = _RESOURCE.fullmatch(path)
    if found is None:
        return "other", ""
    return found["resource"] + (f"/{found['sub']}" if found["sub"] else ""), found["namespace"] or ""
