"""Logs in to the API server: in the cluster by service account, elsewhere by $KUBECONFIG."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import aiohttp
import kopf

from aurl_operator.client import CONNECTIONS, Client, TokenFile, namespace_of, resource_of
from aurl_operator.metrics import Metrics
from aurl_operator.watches import Watches

SERVICE_ACCOUNT_TOKEN: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


def open_session(
    settings: kopf.OperatorSettings, client: Client, metrics: Metrics, watches: Watches
) -> kopf.AiohttpSession:
    """A session for kopf's watches and the client's requests. Each watch holds a connection.

    Raises kopf.PermanentError where no credentials are found.
    """
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
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONNECTIONS + len(watches.all()), ssl=info.as_ssl_context()),
        headers={**info.as_http_headers(), "User-Agent": "aurl-operator"},
        trace_configs=[_request_counter(metrics, watches)],
        middlewares=(_authorization(token_file),) if token_file else (),
        trust_env=False,
    )
    client.use(session, info.server)
    return kopf.AiohttpSession(
        server=info.server,
        aiohttp_session=session,
        default_namespace=info.default_namespace,
        priority=info.priority,
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
