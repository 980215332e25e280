"""Runs reconciliation while this replica is the leader: queue, workers, progress polls and events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

from aurl_operator.core.names import Key
from aurl_operator.core.observed import Options
from aurl_operator.kube.client import ApiError, Client
from aurl_operator.kube.event_recorder import EventRecorder
from aurl_operator.kube.informer import Informer
from aurl_operator.kube.leader_election import LeaderElector
from aurl_operator.kube.progress_poller import ProgressPoller
from aurl_operator.kube.store import Store
from aurl_operator.kube.work_queue import WorkQueue
from aurl_operator.reconciler import Conflict, Reconciler
from aurl_operator.serve.metrics import Metrics

log = logging.getLogger(__name__)

#: Seconds that running reconciliations get to finish when the operator stops, before the lease is released.
GRACE_SECONDS: Final = 0.4
#: Shortest back-off after an error that should not have happened.
ERROR_RETRY_SECONDS: Final = 5.0


class LeaderSession:
    """One term as leader: everything that writes to the cluster or talks to pods. Used once."""

    def __init__(
        self, client: Client, store: Store, metrics: Metrics, options: Options, workers: int
    ) -> None:
        self.queue = WorkQueue()
        self._metrics, self._workers = metrics, workers
        self._poller = ProgressPoller(options.progress_interval, self.queue.add)
        self._recorder = EventRecorder(client)
        self._reconciler = Reconciler(client, store, self._poller, self._recorder, metrics, options)
        self._stopping = False

    async def run(self) -> None:
        """Reconcile until cancelled; nothing keeps running afterwards."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._recorder.run())
                for _ in range(self._workers):
                    tasks.create_task(self._work())
        finally:
            self.queue.shut_down()
            await self._poller.close()

    async def finish(self, seconds: float) -> None:
        """Start no new reconciliation and wait a moment for those that are running."""
        self._stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.queue.processing() or not self._recorder.idle():
                    await asyncio.sleep(0.01)

    async def _work(self) -> None:
        while True:
            key = await self.queue.get()
            try:
                if not self._stopping:
                    await self._reconcile(key)
            finally:
                self.queue.done(key)

    async def _reconcile(self, key: Key) -> None:
        """Reconcile one job and queue it again: when it asked to be, or with back-off after a failure."""
        about = {"namespace": key[0], "job": key[1]}
        started = time.monotonic()
        result = "error"
        try:
            requeue_after = await self._reconciler.reconcile(key)
        except Conflict:
            result = "conflict"
            self.queue.add_rate_limited(key)
        except ApiError as error:
            result = "retry"
            delay = self.queue.add_rate_limited(key, error.retry_after)
            log.warning("reconciliation failed, retrying in %.1f s: %s", delay, error, extra=about)
        except Exception:
            delay = self.queue.add_rate_limited(key, ERROR_RETRY_SECONDS)
            log.exception("reconciliation failed unexpectedly, retrying in %.1f s", delay, extra=about)
        else:
            result = "ok"
            self.queue.forget(key)
            if requeue_after is not None:
                self.queue.add_after(key, requeue_after)
        self._metrics.reconciles.labels(result).inc()
        self._metrics.reconcile_seconds.observe(time.monotonic() - started)


class Leadership:
    """Starts a session when the lease is acquired, ends it when it is lost.

    Without an elector this is the only replica, which is the leader all the time.
    """

    def __init__(
        self, informer: Informer, elector: LeaderElector | None, new_session: Callable[[], LeaderSession]
    ) -> None:
        self._informer, self._elector, self._new_session = informer, elector, new_session
        self._session: LeaderSession | None = None
        self._working: asyncio.Task[None] | None = None
        self._electing: asyncio.Task[None] | None = None
        informer.add_handler(self._enqueue)

    def is_leader(self) -> bool:
        """True while this replica acts."""
        return self._session is not None

    def queue_depth(self) -> int:
        """Number of jobs that wait to be reconciled."""
        return self._session.queue.depth() if self._session else 0

    def queue_oldest(self) -> float:
        """Age in seconds of the oldest job in the queue."""
        return self._session.queue.oldest_seconds() if self._session else 0.0

    def _enqueue(self, key: Key) -> None:
        # A standby replica reconciles all jobs when it becomes the leader.
        if self._session is not None:
            self._session.queue.add(key)

    async def run(self) -> None:
        """Act whenever this replica is the leader, forever."""
        # With an incomplete store existing pods look missing, so let another replica lead until then.
        await self._informer.synced.wait()
        if self._elector is None:
            await self._lead(lost=asyncio.Event())
            return
        self._electing = asyncio.create_task(self._elector.run())
        try:
            while True:
                acquired = asyncio.create_task(self._elector.acquired.wait())
                await asyncio.wait([acquired, self._electing], return_when=asyncio.FIRST_COMPLETED)
                acquired.cancel()
                if self._electing.done():
                    self._electing.result()
                await self._lead(self._elector.lost)
        finally:
            self._electing.cancel()

    async def _lead(self, lost: asyncio.Event) -> None:
        """Run one session, until leadership is lost."""
        self._session = session = self._new_session()
        self._working = asyncio.create_task(self._work(session))
        losing = asyncio.create_task(lost.wait())
        try:
            await asyncio.wait([self._working, losing], return_when=asyncio.FIRST_COMPLETED)
            if self._working.done():
                self._working.result()
        finally:
            self._session = None
            self._working.cancel()
            losing.cancel()
            await asyncio.gather(self._working, losing, return_exceptions=True)

    async def _work(self, session: LeaderSession) -> None:
        """Queue every job, then reconcile.

        One watch may lag behind another, and a job whose pods are not in the store yet would look as if it
        had lost them. A list made after the lease was acquired holds all that the previous leader did.
        """
        if self._elector is not None:
            await self._informer.resync()
        else:
            # The first resync found no session to report to.
            self._informer.report_all()
        await session.run()

    async def step_down(self) -> None:
        """Finish running reconciliations, then release the lease for another replica."""
        if self._electing is not None:
            self._electing.cancel()
        session, self._session = self._session, None
        if session is not None:
            await session.finish(GRACE_SECONDS)
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)
        if self._elector is not None:
            await self._elector.release()
