"""A de-duplicated work queue of job keys with delays and back-off, named as client-go's."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from aurl_operator.core.names import Key

FIRST_RETRY_SECONDS: Final = 0.1
LONGEST_RETRY_SECONDS: Final = 30.0


@dataclass
class WorkQueue:
    """Keys are (namespace, name). A key is never processed twice at a time.

    A key added while it is processed is processed once more afterwards.
    """

    _ready: OrderedDict[Key, float] = field(default_factory=OrderedDict)
    _processing: dict[Key, float] = field(default_factory=dict)
    _dirty: set[Key] = field(default_factory=set)
    _timers: dict[Key, asyncio.TimerHandle] = field(default_factory=dict)
    _failures: dict[Key, int] = field(default_factory=dict)
    _not_before: dict[Key, float] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, key: Key) -> None:
        """Have a key processed as soon as possible."""
        wait = self._not_before.get(key, 0.0) - asyncio.get_running_loop().time()
        if wait > 0:
            self.add_after(key, wait)
            return
        self._not_before.pop(key, None)
        if key in self._processing:
            self._dirty.add(key)
        elif key not in self._ready:
            self._ready[key] = asyncio.get_running_loop().time()
            self._wake.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Have a key processed after a delay; of several delays the shortest counts."""
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
        self._processing[key] = asyncio.get_running_loop().time()
        return key

    def done(self, key: Key) -> None:
        """Give a key back; if it was added meanwhile, it is ready again."""
        self._processing.pop(key, None)
        if key in self._dirty:
            self._dirty.discard(key)
            self.add(key)

    def forget(self, key: Key) -> None:
        """Reset the back-off of a key that was processed successfully."""
        self._failures.pop(key, None)

    def add_rate_limited(self, key: Key, at_least: float = 0.0) -> float:
        """Have a key that failed processed again after 0.1, 0.2, 0.4 … 30 s; returns that delay."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        delay = max(min(FIRST_RETRY_SECONDS * 2.0 ** min(count, 16), LONGEST_RETRY_SECONDS), at_least)
        if at_least > 0:
            # Retry-After of the API server holds for later events as well.
            self._not_before[key] = asyncio.get_running_loop().time() + delay
        # An event that came meanwhile must not defeat the back-off.
        self._dirty.discard(key)
        self.add_after(key, delay)
        return delay

    def shut_down(self) -> None:
        """Drop everything that waits."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._ready.clear()
        self._not_before.clear()
        self._dirty.clear()

    def processing(self) -> bool:
        """True while a key is processed."""
        return bool(self._processing)

    def depth(self) -> int:
        """Number of keys that are ready."""
        return len(self._ready)

    def oldest_seconds(self) -> float:
        """Age in seconds of the oldest key that is ready or processed; 0 if there is none."""
        since = [*self._ready.values(), *self._processing.values()]
        return asyncio.get_running_loop().time() - min(since) if since else 0.0
