"""Serves /metrics, /healthz and /readyz."""

from __future__ import annotations

import logging
import ssl

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from aurl_operator.serve.health import Health
from aurl_operator.serve.metrics import Metrics

log = logging.getLogger(__name__)


async def serve(port: int, metrics: Metrics, health: Health) -> web.AppRunner:
    """Serve the operator's pages. Raises OSError if the port is taken."""

    async def show_metrics(_: web.Request) -> web.Response:
        body = generate_latest(metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def show_health(_: web.Request) -> web.Response:
        problems = health.problems()
        return web.Response(text="\n".join(problems) or "ok", status=503 if problems else 200)

    async def show_ready(_: web.Request) -> web.Response:
        ready, text = health.ready()
        return web.Response(text=text, status=200 if ready else 503)

    app = web.Application()
    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/healthz", show_health)
    app.router.add_get("/readyz", show_ready)
    return await listen(app, port, "/metrics, /healthz and /readyz")


async def listen(
    app: web.Application, port: int, what: str, context: ssl.SSLContext | None = None
) -> web.AppRunner:
    """Listen on all addresses; 0 is any free port. The caller cleans up the runner.

    Raises OSError if the port is taken.
    """
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, None, port, ssl_context=context).start()
    log.info("serving %s on port %d", what, runner.addresses[0][1])
    return runner
