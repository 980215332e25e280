"""A de-duplicated queue of job keys with delays and back-off: one job is never worked on twice at once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from aurl_operator.core.names import Key

FIRST_RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 30.0


@dataclass
class WorkQueue:
    """Keys are (namespace, name). A key added while it is worked on is worked on once more afterwards."""

    _ready: OrderedDict[Key, float] = field(default_factory=OrderedDict)
    _busy: dict[Key, float] = field(default_factory=dict)
    _again: set[Key] = field(default_factory=set)
    _timers: dict[Key, asyncio.TimerHandle] = field(default_factory=dict)
    _failures: dict[Key, int] = field(default_factory=dict)
    _not_before: dict[Key, float] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, key: Key) -> None:
        """Have a key worked on as soon as possible."""
        wait = self._not_before.get(key, 0.0) - asyncio.get_running_loop().time()
        if wait > 0:
            self.add_after(key, wait)
            return
        self._not_before.pop(key, None)
        if key in self._busy:
            self._again.add(key)
        elif key not in self._ready:
            self._ready[key] = asyncio.get_running_loop().time()
            self._wake.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Have a key worked on after a delay; of several delays the shortest counts."""
        loop = asyncio.get_running_loop()
        due = loop.time() + max(seconds, 0.0)
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= due:
                return
            timer.cancel()
        self._timers[key] = loop.call_at(due, self._ring, key)

    def _ring(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    async def get(self) -> Key:
        """The key that has waited longest; `done` must be called for it."""
        while not self._ready:
            self._wake.clear()
            await self._wake.wait()
        key, _ = self._ready.popitem(last=False)
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        self._busy[key] = asyncio.get_running_loop().time()
        return key

    def done(self, key: Key, requeue_after: float | None = None) -> None:
        """Give a key back after success, to be looked at again after a delay if one is given."""
        self._failures.pop(key, None)
        self._release(key)
        if requeue_after is not None:
            self.add_after(key, requeue_after)

    def failed(self, key: Key, at_least: float = 0.0) -> float:
        """Give a key back after a failure, to be tried again after 0.1, 0.2, 0.4 … 30 s; that delay."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        delay = max(min(FIRST_RETRY_SECONDS * 2.0 ** min(count, 16), LONGEST_RETRY_SECONDS), at_least)
        if at_least > 0:
            # What the API server asked for (Retry-After) holds for later events as well.
            self._not_before[key] = asyncio.get_running_loop().time() + delay
        # An event that came meanwhile must not defeat the back-off.
        self._again.discard(key)
        self._release(key)
        self.add_after(key, delay)
        return delay

    def _release(self, key: Key) -> None:
        self._busy.pop(key, None)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def forget(self, key: Key) -> None:
        """Drop the delays and failures of a job that is gone."""
        self._failures.pop(key, None)
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def clear(self) -> None:
        """Drop everything that waits, for good."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._ready.clear()
        self._not_before.clear()
        self._again.clear()

    def busy(self) -> bool:
        """Whether a key is worked on."""
        return bool(self._busy)

    def depth(self) -> int:
        """Number of keys that wait."""
        return len(self._ready)

    def oldest_seconds(self) -> float:
        """Age of the oldest key that waits or is worked on, in seconds; 0 if there is none."""
        began = [*self._ready.values(), *self._busy.values()]
        return asyncio.get_running_loop().time() - min(began) if began else 0.0
