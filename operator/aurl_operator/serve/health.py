"""Tells the truth about the operator: whether event loop, queue and view of the cluster are alive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from aurl_operator.kube.leader_election import Election
from aurl_operator.kube.watch_liveness import Watch, Watches

LONGEST_LAG_SECONDS: Final = 10.0
LONGEST_STUCK_SECONDS: Final = 120.0
LONGEST_DEAF_SECONDS: Final = 15.0
_TICK_SECONDS: Final = 1.0


@dataclass
class Health:
    """What is wrong now; an empty list means that all is well.

    `answers` asks the API server for what a watch is about and says whether it answered: a restart of the
    operator cures a watch that is dead, not a server that is away.
    """

    queue_oldest: Callable[[], float]
    resynced_at: Callable[[], float | None]
    resync_interval: float
    watches: Watches
    answers: Callable[[Watch], Awaitable[bool]]
    election: Election | None = None
    _started: float = field(default_factory=time.monotonic)
    _ticked: float = field(default_factory=time.monotonic)
    _worst_lag: float = 0.0
    _dead: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """Measure how late the event loop is, and look after the watches, for ever."""
        await asyncio.gather(self._measure_lag(), self._look_after_watches())

    async def _measure_lag(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = time.monotonic()
            lag = now - self._ticked - _TICK_SECONDS
            # An old lag is forgotten slowly, so that a probe that comes later still sees it.
            self._worst_lag = max(lag, self._worst_lag * 0.9)
            self._ticked = now

    async def _look_after_watches(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            dead = []
            for watch, seconds in self.watches.silent().items():
                # The answer may have taken a while; the watch may have come back meanwhile.
                if await self.answers(watch) and watch in self.watches.silent():
                    dead.append(
                        f"The watch of {watch} is silent for {seconds:.0f} s, though the API server answers."
                    )
            self._dead = dead

    def problems(self) -> list[str]:
        """One sentence for each thing that is wrong."""
        found = []
        now = time.monotonic()
        lag = max(self._worst_lag, now - self._ticked - _TICK_SECONDS)
        if lag > LONGEST_LAG_SECONDS:
            found.append(f"The event loop lagged by {lag:.0f} s.")
        oldest = self.queue_oldest()
        if oldest > LONGEST_STUCK_SECONDS:
            found.append(f"A job has been in the queue for {oldest:.0f} s.")
        since = now - (self.resynced_at() or self._started)
        limit = 2 * self.resync_interval + 120
        if since > limit:
            found.append(f"The last resync is {since:.0f} s ago, more than {limit:.0f} s.")
        return found + self._dead

    def ready(self) -> tuple[bool, str]:
        """Whether the operator can do its part, and what that is, in a sentence."""
        if self.resynced_at() is None:
            return False, "The cluster has not been listed yet."
        if self.election is None:
            return True, "ok"
        if self.election.leading.is_set():
            return True, "ok, leads"
        if self.election.deaf_seconds > LONGEST_DEAF_SECONDS:
            seconds = self.election.deaf_seconds
            return False, f"The lease could not be read for {seconds:.0f} s: {self.election.problem}"
        return True, f"ok, waits: {self.election.holder or 'nobody'} leads"
