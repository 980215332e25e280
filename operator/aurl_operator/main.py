"""Starts the operator: builds its parts, runs them until a signal, and stops them."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from aurl_operator import __version__
from aurl_operator.api.training_schema import SchemaMissingError, load_schema
from aurl_operator.core.admission import Admission
from aurl_operator.core.validation import ConfigCheck, config_checker
from aurl_operator.core.views import JobView
from aurl_operator.kube.client import Client
from aurl_operator.kube.informer import CHILDREN, Informer
from aurl_operator.kube.kopf_operator import KopfOperator
from aurl_operator.kube.leader_election import LeaderElector, LeaseLock
from aurl_operator.kube.store import Store
from aurl_operator.leadership import LeaderSession, Leadership
from aurl_operator.serve.certificate import ServerCertificate
from aurl_operator.serve.health import Health
from aurl_operator.serve.http import serve
from aurl_operator.serve.logs import set_up_logging
from aurl_operator.serve.metrics import Metrics
from aurl_operator.serve.webhook import serve_webhook
from aurl_operator.settings import Settings, read_settings

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT and return the exit code."""
    settings = read_settings(sys.argv[1:] if arguments is None else arguments, os.environ)
    set_up_logging(settings.log_level)
    try:
        asyncio.run(run(settings, config_checker(load_schema())))
    except SchemaMissingError as error:
        log.error("%s", error)
        return 1
    except OSError as error:
        log.error("cannot serve on port %d or %d: %s", settings.http_port, settings.webhook_port, error)
        return 1
    except Exception:
        log.exception("unhandled error, exiting")
        return 1
    return 0


async def run(settings: Settings, check_config: ConfigCheck) -> None:
    """Run the operator until a signal. Raises OSError if a port is taken."""
    operator = Operator(settings, check_config)
    try:
        await operator.start()
        await operator.wait()
    finally:
        await operator.stop()


class Operator:
    """The parts of the operator and their connections."""

    def __init__(self, settings: Settings, check_config: ConfigCheck) -> None:
        self._settings, self._check_config = settings, check_config
        self._metrics, self._client, self._store = Metrics(), Client(), Store()
        self._informer = Informer(
            self._client,
            self._store,
            [kind for kind in CHILDREN if kind != "NetworkPolicy" or settings.job_network_policy],
            settings.namespaces,
            idle_seconds=settings.watch_idle_seconds,
            resync_seconds=settings.resync_interval,
            observer=self._metrics,
        )
        self._kopf = KopfOperator(
            self._client,
            self._informer,
            settings.namespaces,
            idle_seconds=settings.watch_idle_seconds,
            count_request=self._metrics.count_request,
            take_signals=self._take_signals,
        )
        self._elector = _leader_elector(settings, self._client)
        self._leadership = Leadership(self._informer, self._elector, self._new_session)
        self._health = Health(self._leadership.queue_oldest, self._informer, self._elector)
        self._metrics.export(
            self._jobs,
            self._leadership.queue_depth,
            self._leadership.queue_oldest,
            self._leadership.is_leader,
        )
        self._signalled = asyncio.Event()
        self._servers: list[web.AppRunner] = []
        self._tasks: list[asyncio.Task[Any]] = []

    async def start(self) -> None:
        """Open the ports and start everything that runs in the background."""
        self._servers.append(await serve(self._settings.http_port, self._metrics, self._health))
        if self._settings.webhook_certificates:
            await self._start_webhook(Path(self._settings.webhook_certificates))
        self._take_signals()
        for part in (self._kopf, self._informer, self._leadership, self._health):
            self._start_task(part.run())
        self._start_task(self._signalled.wait())
        log.info("operator %s started", __version__)

    async def wait(self) -> None:
        """Wait for a signal. Raises the error of a part that failed: each of them runs forever otherwise."""
        ended, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()

    async def stop(self) -> None:
        """Hand the lease over first, then end everything."""
        await self._leadership.step_down()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._kopf.close()
        for server in self._servers:
            await server.cleanup()
        log.info("operator stopped")

    def _new_session(self) -> LeaderSession:
        options = self._settings.options(self._check_config)
        return LeaderSession(self._client, self._store, self._metrics, options, self._settings.workers)

    def _jobs(self) -> Iterable[JobView]:
        """The jobs to export metrics of: the leader's alone, so that sums over replicas are right."""
        return self._store.jobs() if self._leadership.is_leader() else ()

    def _start_task(self, coroutine: Coroutine[Any, Any, object]) -> None:
        self._tasks.append(asyncio.create_task(coroutine))

    async def _start_webhook(self, certificates: Path) -> None:
        """Serve the webhook, on standby replicas as well: they see the same cluster."""
        settings, certificate = self._settings, ServerCertificate(certificates)
        admission = Admission(
            self._store.job, self._store.config_map, self._check_config, settings.namespaces
        )
        self._servers.append(
            await serve_webhook(settings.webhook_port, certificate, admission, self._metrics)
        )
        self._start_task(certificate.run())

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled.set)


def _leader_elector(settings: Settings, client: Client) -> LeaderElector | None:
    """The elector if a lease is set; then only the leader may write."""
    if settings.lease is None:
        return None
    namespace, name = settings.lease
    # The host's name is the pod's; a container that is restarted in the same pod is another replica.
    identity = f"{socket.gethostname()}_{secrets.token_hex(4)}"
    elector = LeaderElector(client, LeaseLock(client, namespace, name, identity, settings.lease_seconds))
    client.seconds_to_act = elector.seconds_to_act
    return elector
