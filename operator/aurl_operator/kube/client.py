"""Sends the operator's own requests to the API server: single ones, lists, and watches."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from statistics import median
from typing import Any, Final

import aiohttp

from aurl_operator.api.base import GROUP, PLURAL, VERSION
from aurl_operator.core.parsers import dig, integer, text

PAGE: Final = "500"
CONNECT_SECONDS: Final = 5
TIMEOUT_SECONDS: Final = 20.0
#: Recent answers whose time is compared with this machine's.
SKEW_SAMPLES: Final = 25
#: For opening a watch; the caller decides how long it may be silent.
WATCH_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS)
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


@dataclass
class ApiError(Exception):
    """The API server answered with an error, or not at all (code 0); `retry_after` is in seconds."""

    code: int
    message: str
    retry_after: float = 0.0

    def __str__(self) -> str:
        return f"HTTP {self.code}: {self.message}" if self.code else self.message


class Unreachable(ApiError):
    """The API server did not answer."""

    def __init__(self, message: str) -> None:
        super().__init__(0, message)


class NotLeading(Unreachable):
    """A write was not sent, because another replica may be the leader by now."""


class Client:
    """Requests by kind, namespace and name. A login must have called `use` before the first one.

    `seconds_to_act` returns the seconds for which this replica may still write (see leader_election.py).
    """

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._server = ""
        self._skews: deque[float] = deque(maxlen=SKEW_SAMPLES)
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
        """Send one request and return the JSON object of the answer.

        A namespace of "" lists the whole cluster. Raises ApiError, Unreachable and, for a write by a replica
        that is not the leader, NotLeading.
        """
        path = _path(kind, namespace) + (f"/{name}" if name else "")
        path += f"/{subresource}" if subresource else ""
        if self._session is None:
            raise Unreachable("not logged in yet")
        seconds = TIMEOUT_SECONDS
        if method != "GET" and kind != "Lease":
            # No write may be in flight when another replica can take over.
            seconds = min(seconds, self.seconds_to_act())
            if seconds <= 0:
                raise NotLeading(f"{method} {path}: this replica is not the leader")
        content = "application/merge-patch+json" if method == "PATCH" else "application/json"
        try:
            async with self._session.request(
                method,
                f"{self._server}{path}",
                data=None if body is None else json.dumps(body),
                params=query,
                headers={"Content-Type": content, "Accept": "application/json"},
                timeout=aiohttp.ClientTimeout(total=seconds, connect=CONNECT_SECONDS),
            ) as response:
                self._compare_clocks(response)
                return await _answer(response)
        except (aiohttp.ClientError, TimeoutError, RuntimeError) as error:
            # aiohttp raises RuntimeError on a session that was closed, as a login with new credentials does.
            raise Unreachable(f"{method} {path}: {type(error).__name__}: {error}") from error

    def clock_skew(self) -> timedelta:
        """Return how far the API server's clock is ahead of this machine's: the median of recent answers."""
        return timedelta(seconds=median(self._skews or [0.0]))

    def _compare_clocks(self, response: aiohttp.ClientResponse) -> None:
        try:
            date = parsedate_to_datetime(response.headers["Date"])
            # The header leaves out the fraction of the second.
            self._skews.append((date - datetime.now(UTC)).total_seconds() + 0.5)
        except (KeyError, ValueError, TypeError, OverflowError):
            return

    async def pages(
        self, kind: str, namespace: str, query: Mapping[str, str]
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield the list of a kind's objects, page by page. Raises what `request` does."""
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
        """Yield the events of a watch until it closes or brings nothing for `idle_seconds`.

        Raises ApiError when it is refused and Unreachable when it breaks.
        """
        if self._session is None:
            raise Unreachable("not logged in yet")
        path = _path(kind, namespace)
        rest = b""
        try:
            async with asyncio.timeout(idle_seconds):
                opened = await self._session.get(f"{self._server}{path}", params=query, timeout=WATCH_TIMEOUT)
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
    """The JSON object of an answer. Raises ApiError for a status of 400 and above."""
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
