"""The operator's own requests to the API server: single ones, lists, and streams of events."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from aurl_operator.api.base import GROUP, PLURAL, VERSION
from aurl_operator.core.parsers import dig, integer, text

CONNECTIONS: Final = 32
PAGE: Final = "500"
TIMEOUT_SECONDS: Final = 20.0
TIMEOUT: Final = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS, connect=5)
#: Of opening a stream; how long it may be silent is the caller's business.
STREAM: Final = aiohttp.ClientTimeout(total=None, connect=5)
_PATHS: Final[dict[str, str]] = {
    "Pod": "/api/v1/namespaces/{namespace}/pods",
    "Service": "/api/v1/namespaces/{namespace}/services",
    "ConfigMap": "/api/v1/namespaces/{namespace}/configmaps",
    "PersistentVolumeClaim": "/api/v1/namespaces/{namespace}/persistentvolumeclaims",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies",
    "PodGroup.scheduling.volcano.sh": "/apis/scheduling.volcano.sh/v1beta1/namespaces/{namespace}/podgroups",
    "PodGroup.scheduling.x-k8s.io": "/apis/scheduling.x-k8s.io/v1alpha1/namespaces/{namespace}/podgroups",
    "Event": "/api/v1/namespaces/{namespace}/events",
    "Lease": "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases",
    "Job": f"/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/{PLURAL}",
}
_RESOURCE: Final = re.compile(
    r"/(?:api/v1|apis/[^/]+/[^/]+)(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<resource>[a-z]+)(?:/[^/]+(?:/(?P<sub>[a-z]+))?)?$"
)


@dataclass
class ApiError(Exception):
    """The API server answered with an error. `message` is its own."""

    code: int
    message: str
    retry_after: float = 0.0

    def __str__(self) -> str:
        return f"HTTP {self.code}: {self.message}"


class Unreachable(Exception):
    """The API server gave no answer."""


class NotLeading(Unreachable):
    """A write was not sent, because another replica may be the one that acts now."""


class Client:
    """Requests by kind, namespace and name. `use` must have been called by a login before the first one.

    `seconds_to_act` tells for how long this replica may still write, see lease.py.
    """

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._server = ""
        self.ready = asyncio.Event()
        self.seconds_to_act: Callable[[], float] = lambda: float("inf")

    def use(self, session: aiohttp.ClientSession, server: str) -> None:
        """Send requests through a session from now on."""
        self._session, self._server = session, server.rstrip("/")
        self.ready.set()

    async def request(
        self,
        method: str,
        kind: str,
        namespace: str,
        name: str = "",
        *,
        subresource: str = "",
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """One request; the answer's JSON object.

        A namespace of "" lists the whole cluster. Raises ApiError, Unreachable and, for a write by a replica
        that does not lead, NotLeading.
        """
        path = _path(kind, namespace) + (f"/{name}" if name else "")
        path += f"/{subresource}" if subresource else ""
        if self._session is None:
            raise Unreachable("not logged in yet")
        timeout = TIMEOUT
        if method != "GET" and kind != "Lease":
            left = self.seconds_to_act()
            if left <= 0:
                raise NotLeading(f"{method} {path}: this replica does not lead")
            # No write may be under way when another replica can take over.
            timeout = aiohttp.ClientTimeout(total=min(TIMEOUT_SECONDS, left), connect=5)
        content = "application/merge-patch+json" if method == "PATCH" else "application/json"
        try:
            async with self._session.request(
                method,
                f"{self._server}{path}",
                data=None if body is None else json.dumps(body),
                params=query,
                headers={"Content-Type": content, "Accept": "application/json"},
                timeout=timeout,
            ) as response:
                return await _answer(response)
        except (aiohttp.ClientError, TimeoutError, RuntimeError) as error:
            # RuntimeError is how aiohttp tells that the session was closed (a login had other credentials).
            raise Unreachable(f"{method} {path}: {type(error).__name__}: {error}") from error

    async def pages(
        self, kind: str, namespace: str, query: Mapping[str, str]
    ) -> AsyncIterator[dict[str, Any]]:
        """A list of a kind's objects, page by page. Raises what `request` does."""
        token = ""
        while True:
            page = {**query, "limit": PAGE} | ({"continue": token} if token else {})
            answer = await self.request("GET", kind, namespace, query=page)
            yield answer
            token = str(dig(answer, "metadata", "continue") or "")
            if not token:
                return

    async def watch(
        self, kind: str, namespace: str, query: Mapping[str, str], idle_seconds: float
    ) -> AsyncGenerator[dict[str, Any]]:
        """The events of a stream as they come, until it ends or brings nothing for `idle_seconds`.

        Raises ApiError when it is refused and Unreachable when it breaks.
        """
        if self._session is None:
            raise Unreachable("not logged in yet")
        path = _path(kind, namespace)
        rest = b""
        try:
            async with asyncio.timeout(idle_seconds):
                opened = await self._session.get(f"{self._server}{path}", params=query, timeout=STREAM)
            async with opened as response:
                if response.status != 200:
                    await _answer(response)
                while True:
                    # aiohttp's own timeout would not notice a session that was closed meanwhile.
                    async with asyncio.timeout(idle_seconds):
                        piece = await response.content.readany()
                    if not piece:
                        return
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in lines:
                        event = json.loads(line)
                        if isinstance(event, dict):
                            yield event
        except (aiohttp.ClientError, RuntimeError, ValueError) as error:
            raise Unreachable(f"watch {path}: {type(error).__name__}: {error}") from error
        except TimeoutError:
            return


def _path(kind: str, namespace: str) -> str:
    """The URL path of a kind's objects; a namespace of "" means all of them."""
    path = _PATHS[kind].format(namespace=namespace)
    return path if namespace else path.replace("/namespaces//", "/")


async def _answer(response: aiohttp.ClientResponse) -> dict[str, Any]:
    raw = await response.read()
    try:
        parsed = json.loads(raw)
    except ValueError:
        parsed = None
    body = parsed if isinstance(parsed, dict) else {}
    if response.status < 400:
        return body
    message = text(body.get("message")) or raw[:300].decode(errors="replace")
    seconds = integer(response.headers.get("Retry-After")) or integer(
        dig(body, "details", "retryAfterSeconds")
    )
    raise ApiError(response.status, message, float(seconds or 0))


def resource_of(path: str) -> str:
    """The resource that a URL path is about, for metrics: `pods`, `aurltrainingjobs/status`, or `other`."""
    found = _RESOURCE.fullmatch(path)
    if found is None:
        return "other"
    return found["resource"] + (f"/{found['sub']}" if found["sub"] else "")


def namespace_of(path: str) -> str:
    """The namespace that a URL path is about; empty for all of them."""
    found = _RESOURCE.fullmatch(path)
    return (found["namespace"] or "") if found else ""


@dataclass
class TokenFile:
    """A service account's token, which the kubelet renews in its file from time to time."""

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
