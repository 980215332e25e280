"""The launcher's HTTP server: /progress, /metrics and /healthz, answered in threads of its own."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

log = logging.getLogger(__name__)

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REQUEST_TIMEOUT = 10.0
"""Seconds after which a client that does not finish its request is dropped."""

Route = tuple[str, Callable[[], bytes]]


class LauncherServer:
    """Serves fixed routes for as long as the launcher lives, whatever the ranks do."""

    def __init__(self, port: int, routes: dict[str, Route]) -> None:
        """Bind `port` on all addresses (0: any free port); raises OSError when it is taken."""
        self._server = _Server(port, routes)
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)

    @property
    def port(self) -> int:
        """The port that is really bound."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    # A pod may have IPv4, IPv6 or both; one dual-stack socket serves them all.
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def __init__(self, port: int, routes: dict[str, Route]) -> None:
        self.routes = routes
        super().__init__(("", port), _Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # HTTPServer.server_bind would look up the host's name, which can hang where there is no DNS.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "launcher", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a client went away", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = REQUEST_TIMEOUT
    server_version = "aurl-launcher"
    sys_version = ""

    def do_GET(self) -> None:
        route = self.server.routes.get(self.path.partition("?")[0])
        if route is None:
            self._answer(
                HTTPStatus.NOT_FOUND, "text/plain", b"not found; try /progress, /metrics or /healthz\n"
            )
            return
        content_type, produce = route
        try:
            body = produce()
        except Exception as error:  # noqa: BLE001 - one bad answer must not end the server
            log.error("an answer could not be made", extra={"path": self.path, "error": repr(error)})
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", f"{error!r}\n".encode())
            return
        self._answer(HTTPStatus.OK, content_type, body)

    do_HEAD = do_GET  # noqa: N815 - the name is http.server's

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not worth a line each."""


def json_body(value: Any) -> bytes:
    """Return `value` as the body of a JSON answer."""
    return (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "replace")
