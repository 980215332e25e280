"""The work queue: no key twice at a time, none lost, and back-off that events do not defeat."""

from __future__ import annotations

import asyncio

import pytest

from aurl_operator.core.names import Key
from aurl_operator.kube.work_queue import WorkQueue

A: Key = ("music", "a")
B: Key = ("music", "b")


def test_a_key_added_while_it_is_processed_is_processed_once_more() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        queue.add(A)
        queue.add(A)
        assert await queue.get() == A
        queue.add(A)
        queue.add(A)
        assert queue.depth() == 0 and queue.processing()
        queue.done(A)
        assert queue.depth() == 1
        assert await queue.get() == A
        queue.done(A)
        assert queue.depth() == 0 and not queue.processing()

    asyncio.run(scenario())


def test_back_off_doubles_until_the_key_is_forgotten() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        delays = [queue.add_rate_limited(A) for _ in range(3)]
        queue.forget(A)
        assert [*delays, queue.add_rate_limited(A)] == pytest.approx([0.1, 0.2, 0.4, 0.1])
        assert queue.add_rate_limited(B, at_least=7) == 7
        queue.shut_down()

    asyncio.run(scenario())


def test_an_event_during_a_failure_does_not_defeat_the_back_off() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        queue.add(A)
        await queue.get()
        queue.add(A)
        queue.add_rate_limited(A)
        queue.done(A)
        assert queue.depth() == 0
        async with asyncio.timeout(5):
            assert await queue.get() == A

    asyncio.run(scenario())


def test_of_several_delays_the_shortest_counts() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        queue.add_after(A, 60)
        queue.add_after(A, 0.01)
        queue.add_after(A, 30)
        async with asyncio.timeout(5):
            assert await queue.get() == A
        queue.shut_down()

    asyncio.run(scenario())
