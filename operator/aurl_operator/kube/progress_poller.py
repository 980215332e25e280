"""Polls GET /progress of the rank-0 pod of every running job, with short timeouts and bounded concurrency."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp

from aurl_operator.api.trainer_contract import HTTP_PORT, PROGRESS_PATH, ProgressKey
from aurl_operator.core.names import Key
from aurl_operator.core.progress import ProgressReport

#: Polls at a time, and of these polls of launchers whose last answer did not come in time.
CONCURRENCY: Final = 128
SUSPECTS: Final = 32
#: Longest delay between two polls of a launcher that does not answer in time.
LONGEST_DELAY_SECONDS: Final = 30.0
#: Writes of routine progress per second, by all jobs together, to spare the API server: with more than a
#: hundred running jobs progress is polled more often than written. State changes and checkpoints never wait.
WRITES_PER_SECOND: Final = 20
LARGEST_BODY: Final = 64 * 1024
_TIMEOUT: Final = aiohttp.ClientTimeout(total=3, connect=2)


@dataclass(frozen=True)
class Target:
    """The launcher to poll."""

    ip: str
    attempt: int


class ProgressPoller:
    """Keeps the latest report of each job and calls `on_report` with its key when the report has changed."""

    def __init__(self, interval: float, on_report: Callable[[Key], None]) -> None:
        self._interval, self._on_report = interval, on_report
        self._tasks: dict[Key, tuple[Target, asyncio.Task[None]]] = {}
        self._reports: dict[Key, ProgressReport] = {}
        # Launchers that time out have slots of their own, so that they do not delay polls of the others.
        self._slots = asyncio.Semaphore(CONCURRENCY - SUSPECTS)
        self._suspect_slots = asyncio.Semaphore(SUSPECTS)
        self._session: aiohttp.ClientSession | None = None

    def follow(self, key: Key, target: Target | None) -> None:
        """Poll a job at this address from now on; None stops polling it."""
        known = self._tasks.get(key)
        if known is not None and known[0] == target:
            return
        if known is not None:
            known[1].cancel()
            del self._tasks[key]
            self._reports.pop(key, None)
        if target is not None:
            self._tasks[key] = (target, asyncio.create_task(self._poll(key, target)))

    def latest(self, key: Key) -> ProgressReport | None:
        """Return the latest report of a job, or None before the first one."""
        return self._reports.get(key)

    async def close(self) -> None:
        """Stop polling."""
        for key in list(self._tasks):
            self.follow(key, None)
        if self._session is not None:
            await self._session.close()

    async def _poll(self, key: Key, target: Target) -> None:
        # Poll fast until the first answer, then spread the polls of many jobs over the interval.
        delay, timeouts = min(0.5, self._interval), 0
        while True:
            pause = min(delay * 2.0 ** min(timeouts, 16), max(delay, LONGEST_DELAY_SECONDS))
            await asyncio.sleep(pause * random.uniform(0.9, 1.1))
            async with self._suspect_slots if timeouts else self._slots:
                try:
                    answer = await self._ask(target)
                except TimeoutError:
                    timeouts += 1
                    continue
            timeouts = 0
            if answer is None:
                continue
            body, problem = answer
            delay = self._interval
            before = self._reports.get(key)
            share = len(self._tasks) / WRITES_PER_SECOND
            self._reports[key] = ProgressReport(body, target.attempt, datetime.now(UTC), share, problem)
            if before is None or (before.body, before.problem) != (body, problem):
                self._on_report(key)

    async def _ask(self, target: Target) -> tuple[Mapping[str, Any], str] | None:
        """Send one request; return the answer and, if it is too large to read, what is wrong with it.

        None unless it is a JSON object about this attempt. Raises TimeoutError if nobody answers in time.
        """
        if self._session is None:
            # A session of its own: the API server's credentials must never reach a pod.
            self._session = aiohttp.ClientSession(
                timeout=_TIMEOUT, connector=aiohttp.TCPConnector(limit=CONCURRENCY), trust_env=False
            )
        try:
            address = ipaddress.ip_address(target.ip)
            host = f"[{address}]" if address.version == 6 else str(address)
            url = f"http://{host}:{HTTP_PORT}{PROGRESS_PATH}"
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    return None
                raw = bytearray()
                async for chunk in response.content.iter_chunked(LARGEST_BODY):
                    raw += chunk
                    if len(raw) > LARGEST_BODY:
                        return {}, f"is larger than {LARGEST_BODY // 1024} KiB"
                body = json.loads(raw)
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError, ValueError, RecursionError):
            return None
        if not isinstance(body, dict) or body.get(ProgressKey.ATTEMPT, target.attempt) != target.attempt:
            return None
        return body, ""
