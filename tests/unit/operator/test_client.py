"""The client of the API server."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
import pytest
from aiohttp import web

from aurl_operator.kube.client import ApiError, Client


@pytest.mark.parametrize("skew", [0, 300, -300])
def test_the_servers_clock_is_read_from_its_answers(skew: int) -> None:
    """A single odd answer, as by a proxy of another clock, does not matter; refusals count as well."""
    odd = iter([timedelta(days=1), None])

    async def answer(_: web.Request) -> web.Response:
        extra = next(odd, timedelta())
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=skew) + (extra or timedelta()), True)
        return web.Response(status=403, headers={"Date": date if extra is not None else "yesterday"})

    async def scenario() -> timedelta:
        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession() as session:
            client = Client()
            assert client.clock_skew() == timedelta()
            client.use(session, f"http://127.0.0.1:{runner.addresses[0][1]}")
            for _ in range(6):
                with pytest.raises(ApiError):
                    await client.request("GET", "Pod", "music", "bach-0-0")
            measured = client.clock_skew()
        await runner.cleanup()
        return measured

    assert asyncio.run(scenario()).total_seconds() == pytest.approx(skew, abs=1.0)
