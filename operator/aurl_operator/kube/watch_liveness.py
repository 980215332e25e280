"""Knows when each watch last showed that it lives: a stream that nobody feeds looks like a quiet cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

#: A watch is opened anew after the idle time without an event; so many times in vain make it a silent one.
PATIENCE: Final = 3.0


@dataclass(frozen=True)
class Watch:
    """One stream: the objects of a resource in a namespace, or in all of them (empty)."""

    resource: str
    namespace: str

    def __str__(self) -> str:
        return f"{self.resource} in namespace {self.namespace}" if self.namespace else self.resource


@dataclass
class Watches:
    """The watches that there must be. `idle_seconds`: how long one may bring nothing before it is renewed."""

    resources: tuple[str, ...]
    namespaces: tuple[str, ...]
    idle_seconds: float
    on_contact: Callable[[str, float], None]
    _heard: dict[Watch, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        now = time.monotonic()
        self._heard = dict.fromkeys(self.all(), now)

    def all(self) -> list[Watch]:
        """All watches."""
        return [Watch(name, space) for name in self.resources for space in self.namespaces or ("",)]

    def heard(self, resource: str, namespace: str) -> None:
        """A watch has brought an event, or was answered when it was opened."""
        watch = Watch(resource, namespace if self.namespaces else "")
        if watch in self._heard:
            self._heard[watch] = time.monotonic()
            self.on_contact(resource, time.time())

    def silent(self) -> dict[Watch, float]:
        """The watches that have shown no sign of life for too long, and for how many seconds."""
        now, limit = time.monotonic(), PATIENCE * self.idle_seconds
        return {watch: now - at for watch, at in self._heard.items() if now - at > limit}
