"""kopf's part in the operator: it logs in to the API server and watches the jobs. All of it is in this file.

What kopf does here: it finds and renews credentials (service account in the cluster, $KUBECONFIG elsewhere),
lists and watches AurlTrainingJobs in the cluster or in each namespace, and hands every event to the informer.

What it does not do, and why (measured with kopf 1.45):

- Handle creations, updates, fields or timers. Such handlers are edge-triggered, lose deletions after a
  relist, and patch finalizers and annotations into every object. One idempotent `reconcile` works from the
  store instead.
- Watch the objects of jobs. With kopf a job costs 4.5 ms of CPU, without it 1.9 ms: kopf prepares for its
  handlers at each event, and pods, Services and ConfigMaps change far more often than jobs. The informer
  watches them.
- Remember anything about objects (`NoDiffBase`, no progress storage). Only change handlers read that, and
  copying each object several times for it was most of what an event cost.
- Elect a leader, write Events or report health. Its peering is a keep-alive of 60 s without fencing, its
  Events are not aggregated, and its liveness page does not notice a dead watch.
- Decide when the process ends. An error within a stream ends kopf; it then closes its session and would
  cancel every task of the process. So it is started again here, only its own tasks are cancelled, and the
  operator's requests have a session of their own.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import kopf

from aurl_operator.api.base import GROUP, PLURAL, VERSION
from aurl_operator.kube.client import Client
from aurl_operator.kube.informer import Informer
from aurl_operator.kube.session import TokenFile, request_trace

log = logging.getLogger(__name__)

SERVICE_ACCOUNT_TOKEN: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
RESTART_SECONDS: Final = 1.0
#: Connections of a session for requests; each watch of the client needs one more.
CONNECTIONS: Final = 32
#: One cancellation makes kopf's tasks wait for one another, the next one makes them give up.
CANCELLATIONS: Final = 5
_KOPF: Final = str(Path(kopf.__file__).parent)


class KopfOperator:
    """Runs kopf and restarts it when it ends. Its login also opens the client's session.

    No `namespaces`: the whole cluster. `count_request` gets verb, resource and status code (0: no answer) of
    every request, `take_signals` is called after kopf took the process's signals.
    """

    def __init__(
        self,
        client: Client,
        informer: Informer,
        namespaces: tuple[str, ...],
        idle_seconds: float,
        count_request: Callable[[str, str, int], None],
        take_signals: Callable[[], None],
    ) -> None:
        self._client, self._informer, self._count_request = client, informer, count_request
        self._namespaces, self._idle_seconds, self._take_signals = namespaces, idle_seconds, take_signals
        self._credentials: kopf.ConnectionInfo | None = None
        self._client_session: aiohttp.ClientSession | None = None
        self._kopf_session: aiohttp.ClientSession | None = None
        self._registry = kopf.OperatorRegistry()
        kopf.on.login(registry=self._registry, id="login", retries=None, backoff=2)(self._log_in)
        kopf.on.event(GROUP, VERSION, PLURAL, registry=self._registry)(self._on_job_event)

    async def run(self) -> None:
        """Watch the jobs forever."""
        while True:
            tasks = await kopf.spawn_tasks(
                registry=self._registry,
                settings=_settings(self._idle_seconds),
                clusterwide=not self._namespaces,
                namespaces=self._namespaces,
            )
            self._take_signals()
            try:
                error = await _run_until_one_ends(tasks)
            finally:
                await _close(self._kopf_session)
            log.warning("watch on %s closed, reconnecting in %.1f s: %s", PLURAL, RESTART_SECONDS, error)
            await asyncio.sleep(RESTART_SECONDS)

    async def close(self) -> None:
        """Close the client's session."""
        await _close(self._client_session)

    async def _on_job_event(self, event: kopf.RawEvent, **_: Any) -> None:
        # kopf swallows exceptions of a handler and waits for it, so this only updates store and queue.
        self._informer.receive_job(event["type"] == "DELETED", event["object"])

    def _on_request(self, verb: str, resource: str, namespace: str, code: int) -> None:
        self._count_request(verb, resource, code)
        if verb == "watch" and code == 200:
            self._informer.opened(resource, namespace)

    async def _log_in(self, settings: kopf.OperatorSettings, **_: Any) -> kopf.AiohttpSession:
        """Open a session for kopf and one for the client. Raises kopf.TemporaryError without credentials.

        kopf closes its session whenever its watch ends, and a read on a closed session waits forever. The
        client's session stays open unless the credentials have changed.
        """
        info, token = _credentials(settings)
        if self._client_session is None or info != self._credentials:
            before, self._credentials = self._client_session, info
            self._client_session = self._open(info, token, CONNECTIONS + len(self._informer.watches))
            self._client.use(self._client_session, info.server)
            await _close(before)
        self._kopf_session = self._open(info, token, CONNECTIONS)
        return kopf.AiohttpSession(
            server=info.server,
            aiohttp_session=self._kopf_session,
            default_namespace=info.default_namespace,
            priority=info.priority,
        )

    def _open(
        self, info: kopf.ConnectionInfo, token: TokenFile | None, connections: int
    ) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, ssl=info.as_ssl_context()),
            headers={**info.as_http_headers(), "User-Agent": "aurl-operator"},
            trace_configs=[request_trace(self._on_request)],
            middlewares=(token.authorize,) if token else (),
            trust_env=False,
        )


async def _close(session: aiohttp.ClientSession | None) -> None:
    if session is not None:
        await session.close()


def _credentials(settings: kopf.OperatorSettings) -> tuple[kopf.ConnectionInfo, TokenFile | None]:
    """Credentials of $KUBECONFIG if it is set, else of the service account, whose token is in a file."""
    if not os.environ.get("KUBECONFIG"):
        info = kopf.login_with_service_account(settings=settings)
        if info is not None:
            server = _server_address(info.server)
            return dataclasses.replace(info, server=server, token=None), TokenFile(SERVICE_ACCOUNT_TOKEN)
    info = kopf.login_with_kubeconfig(settings=settings)
    if info is None:
        # A permanent error would leave kopf without a login forever.
        raise kopf.TemporaryError("no credentials: found neither a service account nor $KUBECONFIG", delay=2)
    return info, None


def _server_address(fallback: str) -> str:
    """The API server's address as the kubelet gives it to every pod, which needs no DNS."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        return fallback
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


async def _run_until_one_ends(tasks: Collection[asyncio.Task[None]]) -> BaseException | None:
    """Wait until a task of kopf ends, then end all of them; the error of the first one, if it failed."""
    ended: set[asyncio.Task[None]] = set()
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        # kopf.run_tasks would cancel every task of the process that is younger than kopf. kopf names none of
        # the tasks that its tasks start, so they are found by the file of their coroutine.
        running: Collection[asyncio.Task[Any]] = tasks
        for _ in range(CANCELLATIONS):
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=1)
            running = [task for task in asyncio.all_tasks() if _is_kopfs(task)]
            if not running:
                break
    return next((task.exception() for task in ended if not task.cancelled()), None)


def _is_kopfs(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and code.co_filename.startswith(_KOPF)


def _settings(idle_seconds: float) -> kopf.OperatorSettings:
    """Settings that proved robust with kopf 1.45."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.watching.chunk_size = 500
    settings.watching.server_timeout = 240
    settings.watching.client_timeout = 250
    settings.watching.connect_timeout = 5
    settings.watching.inactivity_timeout = idle_seconds
    settings.watching.reconnect_backoff = 1
    settings.networking.request_timeout = 20
    settings.networking.error_backoffs = EndlessBackoff()
    settings.queueing.idle_timeout = 1
    settings.queueing.worker_limit = None
    settings.persistence.diffbase_storage = NoDiffBase([])
    settings.persistence.progress_storage = kopf.MultiProgressStorage([])
    # kopf would kill the process this long after it has ended.
    settings.process.ultimate_exiting_timeout = None
    return settings


class EndlessBackoff:
    """1, 2, 3, 5, 8, 10, 10 … s. kopf ends when its back-offs do, and an outage may last longer."""

    def __iter__(self) -> Iterator[float]:
        yield from (1, 2, 3, 5, 8)
        while True:
            yield 10


class NoDiffBase(kopf.MultiDiffBaseStorage):
    """Keeps no last-handled state, so there is never a difference."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Return nothing: no part of an object is compared."""
        return kopf.BodyEssence()
