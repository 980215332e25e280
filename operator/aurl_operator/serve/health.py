"""Judges the health of the operator: event loop, queue, watches, resync and leader election."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from aurl_operator.kube.informer import Informer
from aurl_operator.kube.leader_election import LeaderElector

LONGEST_LAG_SECONDS: Final = 10.0
LONGEST_STUCK_SECONDS: Final = 120.0
LONGEST_LEASE_SILENCE_SECONDS: Final = 15.0
_TICK_SECONDS: Final = 1.0


class Health:
    """Answers /healthz and /readyz. `queue_oldest`: age in seconds of the oldest job in the queue."""

    def __init__(
        self, queue_oldest: Callable[[], float], informer: Informer, elector: LeaderElector | None
    ) -> None:
        self._queue_oldest, self._informer, self._elector = queue_oldest, informer, elector
        self._started = self._ticked = time.monotonic()
        self._worst_lag = 0.0
        self._dead_watches: list[str] = []

    async def run(self) -> None:
        """Measure the lag of the event loop and check the watches, forever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._measure_lag())
            tasks.create_task(self._check_watches())

    async def _measure_lag(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = time.monotonic()
            lag = now - self._ticked - _TICK_SECONDS
            # An old lag decays slowly, so that a later probe still sees it.
            self._worst_lag = max(lag, self._worst_lag * 0.9)
            self._ticked = now

    async def _check_watches(self) -> None:
        """Find dead watches. Restarting the operator cures these, but not an API server that is away."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            dead = []
            for watch, seconds in self._informer.silent().items():
                # The watch may have come back while the API server answered.
                if await self._informer.answers(watch) and watch in self._informer.silent():
                    dead.append(
                        f"The watch on {watch} is silent for {seconds:.0f} s; the API server answers."
                    )
            self._dead_watches = dead

    def problems(self) -> list[str]:
        """One sentence for each problem; empty if the operator is healthy."""
        found = []
        now = time.monotonic()
        lag = max(self._worst_lag, now - self._ticked - _TICK_SECONDS)
        if lag > LONGEST_LAG_SECONDS:
            found.append(f"The event loop lagged by {lag:.0f} s.")
        oldest = self._queue_oldest()
        if oldest > LONGEST_STUCK_SECONDS:
            found.append(f"A job has been in the queue for {oldest:.0f} s.")
        since = now - (self._informer.resynced_at or self._started)
        limit = 2 * self._informer.resync_seconds + 120
        if since > limit:
            found.append(f"The last resync was {since:.0f} s ago, more than {limit:.0f} s.")
        return found + self._dead_watches

    def ready(self) -> tuple[bool, str]:
        """True if the operator is ready, and its role or the reason in one sentence."""
        if not self._informer.synced.is_set():
            return False, "The cluster has not been listed yet."
        if self._elector is None:
            return True, "ok"
        if self._elector.acquired.is_set():
            return True, "ok, leader"
        silence = self._elector.seconds_since_contact()
        if silence > LONGEST_LEASE_SILENCE_SECONDS:
            return False, f"The lease could not be read for {silence:.0f} s: {self._elector.last_error}"
        return True, f"ok, standby: the leader is {self._elector.leader or 'not elected yet'}"
