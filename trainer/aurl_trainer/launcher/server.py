"""The launcher's HTTP server: read-only, with fixed routes, each request in a thread of its own."""

from __future__ import annotations

import hashlib
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
JSON_TYPE = "application/json"
REQUEST_TIMEOUT = 10.0
"""Seconds after which an unfinished request is dropped."""

MAX_CONNECTIONS = 64
"""Concurrent connections; further ones are closed immediately."""

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Clients revalidate each time, and unchanged content is not sent again (ETag).
    "Cache-Control": "no-cache",
}

Route = tuple[str, Callable[[], bytes]]
Folder = Callable[[str], tuple[str, bytes] | None]
"""Returns type and body for a path below a prefix, or None if there is nothing."""


class LauncherServer(ThreadingHTTPServer):
    """Serves routes, and folders by prefix, independently of the ranks."""

    daemon_threads = True
    block_on_close = False
    # A pod may have IPv4, IPv6 or both; one dual-stack socket serves them all.
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def __init__(self, port: int, routes: dict[str, Route], folders: dict[str, Folder] | None = None) -> None:
        """Bind `port` on all addresses (0: any free port); raises OSError if it is taken."""
        self.routes, self.folders = routes, folders or {}
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(("", port), _Handler)
        self.port = int(self.server_address[1])
        self._thread = threading.Thread(target=self.serve_forever, name="http", daemon=True)

    def start(self) -> None:
        """Start answering."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the port."""
        self.shutdown()
        self.server_close()
        self._thread.join()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or close the connection if too many are open."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and give the connection's place to another."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def produce(self, path: str) -> tuple[str, bytes] | None:
        """Return type and body of the answer to `path`, or None if there is nothing."""
        route = self.routes.get(path)
        if route is not None:
            return route[0], route[1]()
        for prefix, folder in self.folders.items():
            if path.startswith(prefix):
                return folder(path.removeprefix(prefix))
        return None

    def server_bind(self) -> None:
        """Bind as HTTPServer does, but without looking up the host's name, which can hang without DNS."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "launcher", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may leave at any time."""
        log.debug("connection lost", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: LauncherServer
    timeout = REQUEST_TIMEOUT
    server_version = "aurl-launcher"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        try:
            answer = self.server.produce(path)
        except Exception as error:  # noqa: BLE001 - a failed answer must not stop the server
            log.error("request failed", extra={"path": path, "error": repr(error)})
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", f"{error!r}\n".encode())
            return
        if answer is None:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not found; see /, /progress or /metrics\n")
        else:
            self._answer(HTTPStatus.OK, *answer)

    do_HEAD = do_GET  # noqa: N815 - the name is http.server's

    def _refuse(self) -> None:
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b"this server is read-only\n")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        tag = f'"{hashlib.sha256(body).hexdigest()[:24]}"' if status == HTTPStatus.OK else None
        known = tag is not None and tag == self.headers.get("If-None-Match")
        self.send_response(HTTPStatus.NOT_MODIFIED if known else status)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        for name, value in SECURITY_HEADERS.items():
            self.send_header(name, value)
        if tag is not None:
            self.send_header("ETag", tag)
        if known:
            self.end_headers()
            return
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""


def json_body(value: Any) -> bytes:
    """Return `value` as the body of a JSON answer."""
    return (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "replace")
