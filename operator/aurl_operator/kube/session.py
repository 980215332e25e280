"""What the sessions with the API server share: the service account's token, and a trace of requests."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import aiohttp

_RESOURCE: Final = re.compile(
    r"/(?:api/v1|apis/[^/]+/[^/]+)(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<resource>[a-z]+)(?:/[^/]+(?:/(?P<sub>[a-z]+))?)?$"
)


@dataclass
class TokenFile:
    """A service account's token, which the kubelet rotates in its file."""

    path: Path
    _token: str = ""
    _read_at: float = float("-inf")

    async def authorize(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Set the Authorization header of a request; the file is read at most once a minute."""
        now = asyncio.get_running_loop().time()
        if now - self._read_at >= 60:
            self._token = self.path.read_text(encoding="utf-8").strip()
            self._read_at = now
        request.headers["Authorization"] = f"Bearer {self._token}"
        return await handler(request)


#: Called about every request with verb, resource, namespace ("": all) and status code (0: no answer).
OnRequest = Callable[[str, str, str, int], None]


def request_trace(on_request: OnRequest) -> aiohttp.TraceConfig:
    """Return a trace that reports every request of a session, whoever sends it."""

    def report(method: str, url: Any, code: int) -> None:
        resource, namespace = resource_of(url.path)
        verb = method.lower()
        if verb == "get" and url.query.get("watch"):
            verb = "watch"
        elif verb == "get" and url.path.endswith(f"/{resource}"):
            verb = "list"
        on_request(verb, resource, namespace, code)

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
