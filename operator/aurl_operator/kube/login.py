"""Logs in to the API server: in the cluster by service account, elsewhere by $KUBECONFIG."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import aiohttp
import kopf

from aurl_operator.kube.client import CONNECTIONS, Client, TokenFile, namespace_of, resource_of
from aurl_operator.kube.watch_liveness import Watches
from aurl_operator.serve.metrics import Metrics

SERVICE_ACCOUNT_TOKEN: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class Login:
    """The two sessions with the API server: kopf's, and the client's.

    kopf closes its own whenever its watch ends, and what is being read on it then waits for ever. The
    client's stays, unless the credentials are others.
    """

    def __init__(self, client: Client, metrics: Metrics, watches: Watches) -> None:
        self._client, self._metrics, self._watches = client, metrics, watches
        self._credentials: kopf.ConnectionInfo | None = None
        self._ours: aiohttp.ClientSession | None = None
        self._kopfs: aiohttp.ClientSession | None = None

    async def log_in(self, settings: kopf.OperatorSettings) -> kopf.AiohttpSession:
        """Give kopf a session, and the client one. Raises kopf.PermanentError without credentials."""
        token_file = None
        info = None
        if not os.environ.get("KUBECONFIG"):
            info = kopf.login_with_service_account(settings=settings)
        if info is not None:
            token_file = TokenFile(SERVICE_ACCOUNT_TOKEN)
            info = dataclasses.replace(info, server=_server_address(info.server), token=None)
        else:
            info = kopf.login_with_kubeconfig(settings=settings)
        if info is None:
            raise kopf.PermanentError("No credentials: neither a service account nor $KUBECONFIG was found.")
        if self._ours is None or info != self._credentials:
            # Each watch holds a connection.
            connections = CONNECTIONS + len(self._watches.all())
            before, self._ours = self._ours, self._session(info, token_file, connections)
            self._credentials = info
            self._client.use(self._ours, info.server)
            if before is not None:
                await before.close()
        self._kopfs = self._session(info, token_file, CONNECTIONS)
        return kopf.AiohttpSession(
            server=info.server,
            aiohttp_session=self._kopfs,
            default_namespace=info.default_namespace,
            priority=info.priority,
        )

    def closed(self) -> bool:
        """Whether kopf's session was closed and it has not logged in again."""
        return self._kopfs is not None and self._kopfs.closed

    async def close(self) -> None:
        """End the client's session."""
        if self._ours is not None:
            await self._ours.close()

    def _session(
        self, info: kopf.ConnectionInfo, token_file: TokenFile | None, connections: int
    ) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, ssl=info.as_ssl_context()),
            headers={**info.as_http_headers(), "User-Agent": "aurl-operator"},
            trace_configs=[_request_counter(self._metrics, self._watches)],
            middlewares=(_authorization(token_file),) if token_file else (),
            trust_env=False,
        )


def _server_address(fallback: str) -> str:
    """The API server's address as the kubelet gives it to every pod: no DNS is needed."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        return fallback
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _authorization(token: TokenFile) -> Any:
    async def authorize(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        request.headers["Authorization"] = token.header()
        return await handler(request)

    return authorize


def _request_counter(metrics: Metrics, watches: Watches) -> aiohttp.TraceConfig:
    """Count every request of the session, kopf's own included; a watch that is answered lives."""

    def count(method: str, url: Any, code: int) -> None:
        resource = resource_of(url.path)
        verb = method.lower()
        if verb == "get" and url.query.get("watch"):
            verb = "watch"
            if code == 200:
                watches.heard(resource, namespace_of(url.path))
        elif verb == "get" and url.path.endswith(f"/{resource}"):
            verb = "list"
        metrics.api_requests.labels(verb, resource, str(code)).inc()

    async def on_end(
        session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestEndParams
    ) -> None:
        count(params.method, params.url, params.response.status)

    async def on_exception(
        session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestExceptionParams
    ) -> None:
        count(params.method, params.url, 0)

    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(on_end)
    trace.on_request_exception.append(on_exception)
    return trace
