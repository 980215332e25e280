"""What acts exists only while this replica leads: queue, workers, progress polls and events of one term."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

from aurl_operator.core.names import Key
from aurl_operator.core.observed import Options
from aurl_operator.kube.client import ApiError, Client, Unreachable
from aurl_operator.kube.event_recorder import EventRecorder
from aurl_operator.kube.leader_election import Election
from aurl_operator.kube.progress_poller import ProgressPoller
from aurl_operator.kube.resync import Resync
from aurl_operator.kube.store import Cache
from aurl_operator.kube.work_queue import WorkQueue
from aurl_operator.reconciler import Conflict, Reconciler
from aurl_operator.serve.metrics import Metrics

log = logging.getLogger(__name__)

#: Seconds that reconciliations under way get to end when the operator stops, before the lease is released.
GRACE_SECONDS: Final = 0.4


class Term:
    """One reign: everything that writes to the cluster or talks to pods. It is never used again."""

    def __init__(
        self, client: Client, cache: Cache, metrics: Metrics, options: Options, workers: int
    ) -> None:
        self.queue = WorkQueue()
        self._metrics, self._workers = metrics, workers
        self._poller = ProgressPoller(options.progress_interval, self.queue.add)
        self._recorder = EventRecorder(client)
        self.reconciler = Reconciler(client, cache, self._poller, self._recorder, metrics, options)
        self._stopping = False

    async def run(self) -> None:
        """Work for ever. When cancelled, nothing of it goes on."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._recorder.run())
                for _ in range(self._workers):
                    tasks.create_task(self._work())
        finally:
            self.queue.clear()
            await self._poller.close()

    async def finish(self, seconds: float) -> None:
        """Begin nothing new, and wait a moment for what is under way."""
        self._stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.queue.busy() or not self._recorder.idle():
                    await asyncio.sleep(0.01)

    async def _work(self) -> None:
        """One worker: takes keys and reconciles them, for ever."""
        while True:
            key = await self.queue.get()
            if self._stopping:
                self.queue.done(key)
                continue
            about = {"namespace": key[0], "job": key[1]}
            began = time.monotonic()
            result = "error"
            try:
                wake = await self.reconciler.reconcile(key)
                self.queue.done(key, wake)
                result = "ok"
            except Conflict:
                self.queue.failed(key)
                result = "conflict"
            except (ApiError, Unreachable) as error:
                delay = self.queue.failed(key, getattr(error, "retry_after", 0.0))
                result = "retry"
                log.warning("will try again in %.1f s: %s", delay, error, extra=about)
            except Exception:
                delay = self.queue.failed(key, 5.0)
                log.exception("reconciliation failed, next try in %.1f s", delay, extra=about)
            self._metrics.reconciles.labels(result).inc()
            self._metrics.reconcile_seconds.observe(time.monotonic() - began)


class Leadership:
    """Begins a term when the lease is won, ends it when it is lost. Without election, one term for ever."""

    def __init__(
        self, resync: Resync, new_term: Callable[[], Term], election: Election | None = None
    ) -> None:
        self._resync, self._new_term, self._election = resync, new_term, election
        self._term: Term | None = None
        self._acting: asyncio.Task[None] | None = None
        self._standing: asyncio.Task[None] | None = None

    @property
    def leads(self) -> bool:
        """Whether this replica acts."""
        return self._term is not None

    def enqueue(self, key: Key) -> None:
        """Have a job looked at; a replica that does not lead will look at all of them when it does."""
        if self._term is not None:
            self._term.queue.add(key)

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a deleted job."""
        if self._term is not None:
            self._term.reconciler.forget(uid)

    def queue_depth(self) -> int:
        """Jobs that wait to be reconciled."""
        return self._term.queue.depth() if self._term else 0

    def queue_oldest(self) -> float:
        """Age of the oldest job in the queue, in seconds."""
        return self._term.queue.oldest_seconds() if self._term else 0.0

    async def run(self) -> None:
        """Lead whenever this replica may, for ever."""
        # Until the cluster is seen an existing pod looks missing, and another replica leads better.
        await self._resync.seen.wait()
        if self._election is None:
            await self._reign()
            return
        self._standing = asyncio.create_task(self._election.run())
        try:
            while True:
                won = asyncio.create_task(self._election.leading.wait())
                await asyncio.wait([won, self._standing], return_when=asyncio.FIRST_COMPLETED)
                won.cancel()
                if self._standing.done():
                    self._standing.result()
                await self._reign()
        finally:
            self._standing.cancel()

    async def _reign(self) -> None:
        """Act until the lease is lost."""
        self._term = term = self._new_term()
        self._acting = asyncio.create_task(self._act(term))
        lost = asyncio.create_task(self._election.lost.wait() if self._election else asyncio.Event().wait())
        try:
            await asyncio.wait([self._acting, lost], return_when=asyncio.FIRST_COMPLETED)
            if self._acting.done():
                self._acting.result()
        finally:
            self._term = None
            self._acting.cancel()
            lost.cancel()
            await asyncio.gather(self._acting, lost, return_exceptions=True)

    async def _act(self, term: Term) -> None:
        """Look at everything, then work.

        A watch may lag behind another: a job whose pods are not seen yet would look as if it had lost them.
        What is listed after the lease was won is all that the one before has done.
        """
        if self._election is not None:
            await self._resync.until_done()
        else:
            # What the first resync and the watches told before this term began went to nobody.
            self._resync.announce()
        await term.run()

    async def resign(self) -> None:
        """End in good order: finish what is under way, then let another replica lead."""
        if self._standing is not None:
            self._standing.cancel()
        term, self._term = self._term, None
        if term is not None:
            await term.finish(GRACE_SECONDS)
        if self._acting is not None:
            self._acting.cancel()
            await asyncio.gather(self._acting, return_exceptions=True)
        if self._election is not None:
            await self._election.release()
