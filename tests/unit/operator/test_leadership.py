"""A leader session starts with every job, whether a lease elects the leader or this is the only replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

from aurl_operator.core.names import Key
from aurl_operator.kube.client import Client
from aurl_operator.kube.informer import Informer
from aurl_operator.kube.store import Store
from aurl_operator.kube.work_queue import WorkQueue
from aurl_operator.leadership import LeaderSession, Leadership
from aurl_operator.serve.metrics import Metrics
from unit.operator.builders import Object, make_job


class FakeClient:
    """An API server with two jobs."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.ready.set()

    async def pages(self, kind: str, namespace: str, query: object) -> AsyncIterator[Object]:
        items = [make_job("one"), make_job("two")]
        for number, job in enumerate(items):
            job["metadata"]["uid"] = f"uid-{number}"
        yield {"items": items}


class FakeSession:
    """Takes keys, does nothing."""

    def __init__(self) -> None:
        self.queue, self.taken = WorkQueue(), set[Key]()

    async def run(self) -> None:
        while True:
            key = await self.queue.get()
            self.taken.add(key)
            self.queue.done(key)


def test_without_a_lease_every_job_that_was_there_before_is_looked_at() -> None:
    async def scenario() -> set[Key]:
        session, client = FakeSession(), cast(Client, FakeClient())
        informer = Informer(client, Store(), (), (), idle_seconds=30, resync_seconds=300, observer=Metrics())
        leadership = Leadership(informer, None, lambda: cast(LeaderSession, session))
        tasks = [asyncio.create_task(informer.run()), asyncio.create_task(leadership.run())]
        async with asyncio.timeout(10):
            while len(session.taken) < 2:
                await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return session.taken

    assert asyncio.run(scenario()) == {("music", "one"), ("music", "two")}
