"""Starts the operator: settings, logging, the HTTP server, the leadership, the resync, and the watches."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

import kopf

from aurl_operator import __version__
from aurl_operator.api.base import PLURAL
from aurl_operator.api.training_schema import SchemaMissingError, load_schema
from aurl_operator.core.admission import Admission
from aurl_operator.core.validation import ConfigCheck, config_checker
from aurl_operator.kube.client import ApiError, Client, Unreachable
from aurl_operator.kube.informer import CHILDREN, ChildWatch
from aurl_operator.kube.kopf_handlers import register
from aurl_operator.kube.kopf_runner import watch
from aurl_operator.kube.leader_election import Election, LeaseName
from aurl_operator.kube.login import Login
from aurl_operator.kube.resync import Resync
from aurl_operator.kube.store import Cache
from aurl_operator.kube.watch_liveness import Watch, Watches
from aurl_operator.leadership import Leadership, Term
from aurl_operator.serve.certificate import ServerCertificate
from aurl_operator.serve.health import Health
from aurl_operator.serve.http import serve
from aurl_operator.serve.logs import set_up_logging
from aurl_operator.serve.metrics import Metrics
from aurl_operator.serve.webhook import serve_webhook
from aurl_operator.settings import Settings, read_settings

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; the exit code."""
    settings = read_settings(sys.argv[1:] if arguments is None else arguments, os.environ)
    set_up_logging(settings.log_level)
    try:
        check_config = config_checker(load_schema())
    except SchemaMissingError as error:
        log.error("%s", error)
        return 1
    try:
        asyncio.run(run(settings, check_config))
    except OSError as error:
        log.error("cannot serve on port %d or %d: %s", settings.http_port, settings.webhook_port, error)
        return 1
    except Exception:
        log.exception("the operator ends by an error of its own")
        return 1
    return 0


async def run(settings: Settings, check_config: ConfigCheck) -> None:
    """Wire everything together and run it until a signal comes. Raises OSError if a port is taken."""
    client, cache, stop = Client(), Cache(), asyncio.Event()
    options = settings.options(check_config)
    kinds = tuple(kind for kind in CHILDREN if kind != "NetworkPolicy" or settings.job_network_policy)
    metrics = Metrics(
        lambda: cache.jobs() if leadership.leads else (),  # the leader's alone, so that sums are right
        lambda: leadership.queue_depth(),
        lambda: leadership.queue_oldest(),
        lambda: leadership.leads,
    )
    resync = Resync(
        client,
        cache,
        kinds,
        settings.namespaces,
        settings.resync_interval,
        lambda key: leadership.enqueue(key),
        metrics.last_resync.set,
    )
    election = _election(settings, client)
    leadership = Leadership(resync, lambda: Term(client, cache, metrics, options, settings.workers), election)
    plurals = {PLURAL: "Job"} | {CHILDREN[kind]: kind for kind in kinds}
    watches = Watches(tuple(plurals), settings.namespaces, settings.watch_idle_seconds, metrics.watch_contact)

    async def answers(watch: Watch) -> bool:
        try:
            await client.request("GET", plurals[watch.resource], watch.namespace, query={"limit": "1"})
        except (ApiError, Unreachable):
            return False
        return True

    health = Health(
        leadership.queue_oldest,
        lambda: resync.finished_at,
        settings.resync_interval,
        watches,
        answers,
        election,
    )

    def heard(resource: str, namespace: str) -> None:
        metrics.watch_last_event.labels(resource).set(time.time())
        watches.heard(resource, namespace)

    children = [
        ChildWatch(
            client, cache, kind, namespace,
            idle_seconds=settings.watch_idle_seconds,
            heard=partial(heard, CHILDREN[kind]),
            enqueue=leadership.enqueue,
        )
        for kind in kinds
        for namespace in settings.namespaces or ("",)
    ]  # fmt: skip
    registry = kopf.OperatorRegistry()
    session = Login(client, metrics, watches)
    register(registry, session=session, cache=cache, leadership=leadership, heard=heard)
    servers = [await serve(settings.http_port, metrics, health)]
    jobs: list[Coroutine[Any, Any, object]] = [stop.wait(), resync.run(), health.run(), leadership.run()]
    jobs += [child.run() for child in children]
    if settings.webhook_certificates is not None:
        # A replica that waits answers as well: it sees the same cluster.
        certificate = ServerCertificate(settings.webhook_certificates)
        admission = Admission(cache.job, cache.config_map, check_config, settings.namespaces)
        servers.append(await serve_webhook(settings.webhook_port, certificate, admission, metrics))
        jobs.append(certificate.run())
    log.info("operator %s started", __version__)
    watching = asyncio.create_task(watch(registry, settings, lambda: _stop_at_signals(stop), session.closed))
    tasks = [asyncio.create_task(job) for job in jobs]
    # Everything runs for ever: the first task that ends, by a signal or by a mistake, ends the rest.
    ended, _ = await asyncio.wait([watching, *tasks], return_when=asyncio.FIRST_COMPLETED)
    await leadership.resign()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await session.close()
    for server in servers:
        await server.cleanup()
    for task in ended:
        task.result()
    log.info("operator stopped")


def _election(settings: Settings, client: Client) -> Election | None:
    """Stand for election where a lease is named; then only the holder may write."""
    if settings.lease is None:
        return None
    namespace, name = settings.lease
    # The host's name is the pod's; a container that is restarted in the same pod is another replica.
    identity = f"{socket.gethostname()}_{secrets.token_hex(4)}"
    election = Election(client, LeaseName(namespace, name, identity, settings.lease_seconds))
    client.seconds_to_act = election.seconds_left
    return election


def _stop_at_signals(stop: asyncio.Event) -> None:
    """Set an event at SIGTERM and SIGINT."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
