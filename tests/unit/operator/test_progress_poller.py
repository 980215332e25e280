"""The progress poller against launchers on loopback addresses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from aurl_operator.api.trainer_contract import HTTP_PORT
from aurl_operator.core.names import Key
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
