"""The progress poller against launchers on loopback addresses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from aurl_operator.api.trainer_contract import HTTP_PORT
from aurl_operator.core.names import Key
from aurl_operator.kube import progress_poller
from aurl_operator.kube.progress_poller import LARGEST_BODY, ProgressPoller, Target

JOB: Key = ("music", "bach")


@asynccontextmanager
async def launcher(ip: str, answer: Callable[[], Any]) -> AsyncIterator[None]:
    """Serve `answer()` as /progress."""

    async def progress(_: web.Request) -> web.Response:
        return web.json_response(answer())

    app = web.Application()
    app.router.add_get("/progress", progress)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, ip, HTTP_PORT).start()
    yield
    await runner.cleanup()


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def test_an_answer_that_is_too_large_is_reported_until_it_fits() -> None:
    answer: dict[str, Any] = {"attempt": 0, "step": 1, "padding": "x" * LARGEST_BODY}
    seen: list[Key] = []

    async def scenario() -> None:
        poller = ProgressPoller(0.02, seen.append)
        async with launcher("127.0.0.41", lambda: answer):
            poller.follow(JOB, Target("127.0.0.41", 0))
            await until(lambda: poller.latest(JOB))
            report = poller.latest(JOB)
            assert report is not None
            assert (report.body, report.problem) == ({}, "is larger than 64 KiB")
            del answer["padding"]
            await until(lambda: poller.latest(JOB) not in (None, report) and len(seen) == 2)
            report = poller.latest(JOB)
            assert report is not None
            assert (report.step, report.problem) == (1, "")
            assert len(json.dumps(report.body)) < LARGEST_BODY
        await poller.close()

    asyncio.run(scenario())


def test_launchers_that_do_not_answer_do_not_delay_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_poller, "CONCURRENCY", 4)
    monkeypatch.setattr(progress_poller, "SUSPECTS", 2)
    monkeypatch.setattr(progress_poller, "_TIMEOUT", aiohttp.ClientTimeout(total=0.3))
    polls: list[float] = []

    def healthy() -> Any:
        polls.append(asyncio.get_running_loop().time())
        return {"attempt": 0, "step": len(polls)}

    async def scenario() -> None:
        poller = ProgressPoller(0.05, lambda key: None)
        # It accepts connections and never answers.
        silent = await asyncio.start_server(lambda reader, writer: asyncio.sleep(60), "127.0.0.42", HTTP_PORT)
        async with launcher("127.0.0.41", healthy):
            for index in range(12):
                poller.follow(("music", f"lost-{index}"), Target("127.0.0.42", 0))
            await asyncio.sleep(2.0)  # each of them takes a slot of the others once
            poller.follow(JOB, Target("127.0.0.41", 0))
            await asyncio.sleep(1.5)
        await poller.close()
        silent.close()

    asyncio.run(scenario())
    assert len(polls) > 15
    assert max(b - a for a, b in pairwise(polls)) < 0.25
