"""Runs kopf: its settings, and its watches that begin anew whatever ends them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Final

import kopf

from aurl_operator.kube.kopf_stateless import NoDiffBase, NoProgress
from aurl_operator.settings import Settings

log = logging.getLogger(__name__)

RESTART_SECONDS: Final = 1.0
#: Seconds without a session after which kopf is taken to have ended.
CLOSED_SECONDS: Final = 3
CANCELLATIONS: Final = 5
_KOPF: Final = str(Path(kopf.__file__).parent)


class EndlessBackoff:
    """1, 2, 3, 5, 8, 10, 10 … s: an API server that is away for long must not end the operator."""

    def __iter__(self) -> Iterator[float]:
        yield from (1, 2, 3, 5, 8)
        while True:
            yield 10


def configure(settings: kopf.OperatorSettings, watch_idle_seconds: float) -> None:
    """Settings measured to be robust with kopf 1.45."""
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.watching.chunk_size = 500
    settings.watching.server_timeout = 240
    settings.watching.client_timeout = 250
    settings.watching.connect_timeout = 5
    settings.watching.inactivity_timeout = watch_idle_seconds
    settings.watching.reconnect_backoff = 1
    settings.networking.request_timeout = 20
    settings.networking.error_backoffs = EndlessBackoff()
    settings.queueing.idle_timeout = 1
    settings.queueing.worker_limit = None
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.persistence.progress_storage = NoProgress()
    # kopf would kill the process this long after its watches ended, but they begin anew.
    settings.process.ultimate_exiting_timeout = None


class _TasksOfOthers(Collection[asyncio.Task[Any]]):
    """All tasks but kopf's own. Without this, kopf would cancel every task of the process when it ends."""

    def __contains__(self, task: object) -> bool:
        code = getattr(task.get_coro(), "cr_code", None) if isinstance(task, asyncio.Task) else None
        return code is None or not code.co_filename.startswith(_KOPF)

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return iter(task for task in asyncio.all_tasks() if task in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


async def watch(
    registry: kopf.OperatorRegistry,
    settings: Settings,
    take_signals: Callable[[], None],
    session_closed: Callable[[], bool],
) -> None:
    """Let kopf watch, for ever.

    Some answers to a watch end kopf, for instance an error within the stream or a resource that is missing
    for a moment. Everything else goes on meanwhile, and the watches begin anew. `take_signals` is called
    whenever kopf has taken the process' signals for itself.
    """
    while True:
        kopf_settings = kopf.OperatorSettings()
        configure(kopf_settings, settings.watch_idle_seconds)
        try:
            tasks = await kopf.spawn_tasks(
                registry=registry,
                settings=kopf_settings,
                clusterwide=not settings.namespaces,
                namespaces=settings.namespaces,
            )
            take_signals()
            await _until_it_ends(tasks, session_closed)
        except Exception:
            log.warning("the watches ended and begin anew", exc_info=True)
        else:
            log.warning("the watches ended and begin anew")
        await asyncio.sleep(RESTART_SECONDS)


async def _until_it_ends(tasks: Collection[asyncio.Task[None]], session_closed: Callable[[], bool]) -> None:
    """Run kopf's tasks. After an error in a stream kopf closes its session but may wait for ever: help it."""
    running = asyncio.create_task(kopf.run_tasks(tasks, ignored=_TasksOfOthers()))
    closed = 0
    try:
        # A new login closes the old session as well, but opens another one at once.
        while not running.done() and closed < CLOSED_SECONDS:
            await asyncio.wait([running], timeout=1)
            closed = closed + 1 if session_closed() else 0
        if running.done():
            running.result()
    finally:
        # One cancellation makes kopf wait for its tasks, the next one makes it give them up.
        for _ in range(CANCELLATIONS):
            running.cancel()
            await asyncio.wait([running], timeout=1)
            if running.done():
                break
