"""A relist drops what is gone and keeps what is newer; an error within a watch leads to a relist."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, AsyncIterator
from typing import cast

import pytest

from aurl_operator.core.names import Key
from aurl_operator.kube.client import Client
from aurl_operator.kube.informer import Informer
from aurl_operator.kube.store import Store
from aurl_operator.serve.metrics import Metrics
from unit.operator.builders import UID, Object, make_job, running

WORLD = running()
KEY: Key = ("music", "bach")


def pod(version: int, name: str = "bach-0-0") -> Object:
    made = copy.deepcopy(WORLD.pods[name])
    made["metadata"]["resourceVersion"] = str(version)
    return made


class FakeClient:
    """Lists what it is given, as of version 10, and plays one stream of events."""

    def __init__(self, pods: list[Object], events: list[Object] | None = None) -> None:
        self.pods, self.events, self.lists = pods, events or [], 0
        self.ready = asyncio.Event()
        self.ready.set()

    async def pages(self, kind: str, namespace: str, query: object) -> AsyncIterator[Object]:
        self.lists += kind == "Pod"
        listed = {"Pod": self.pods, "Job": [make_job()]}[kind]
        yield {"metadata": {"resourceVersion": "10"}, "items": listed}

    async def watch(
        self, kind: str, namespace: str, query: object, idle_seconds: float
    ) -> AsyncGenerator[Object]:
        while self.events:
            yield self.events.pop(0)
        await asyncio.Event().wait()


def informer(client: FakeClient, store: Store) -> Informer:
    return Informer(
        cast(Client, client),
        store,
        ("Pod",),
        (),
        idle_seconds=30,
        resync_seconds=300,
        observer=Metrics(),
    )


@pytest.mark.parametrize(("version", "kept"), [(9, False), (10, False), (11, True)])
def test_an_object_that_is_not_listed_is_gone_unless_it_is_newer_than_the_list(
    version: int, kept: bool
) -> None:
    async def scenario() -> None:
        store, changed = Store(), list[Key]()
        store.put_job(make_job())
        store.put_child("Pod", pod(version))
        found = informer(FakeClient([]), store)
        found.add_handler(changed.append)
        await found.resync()
        assert found.synced.is_set()
        assert [view.name for view in store.children(UID).pods] == (["bach-0-0"] if kept else [])
        assert set(changed) == {KEY}

    asyncio.run(scenario())


def test_an_error_within_a_watch_is_followed_by_a_list() -> None:
    gone = {"type": "ERROR", "object": {"code": 410, "message": "too old"}}
    client = FakeClient([pod(5)], [{"type": "MODIFIED", "object": pod(11)}, gone])

    async def scenario() -> None:
        store = Store()
        task = asyncio.create_task(informer(client, store).run())
        async with asyncio.timeout(10):
            # One by the first resync, one before the watch, one after its error.
            while client.lists < 3:
                await asyncio.sleep(0.01)
        assert [view.name for view in store.children(UID).pods] == ["bach-0-0"]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())
