"""The shared API client against a plain HTTP server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from aurl_dev.kube import ApiError, Kube
from aurl_dev.waiting import DeadlineExceeded, wait_for

Answer = tuple[int, object]


@contextmanager
def serving(*answers: Answer) -> Iterator[tuple[str, list[tuple[str, str, str | None]]]]:
    """Serve these answers in turn; yields the address, and the requests as (method, path, token)."""
    asked: list[tuple[str, str, str | None]] = []
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append((self.command, self.path, self.headers["Authorization"]))
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            code, body = left.pop(0)
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the names that http.server calls

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def kube(tmp_path: Path, server: str, **options: Any) -> Kube:
    """Return a client for a kubeconfig with a token."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    return Kube(path, **options)


def test_a_token_is_sent(tmp_path: Path) -> None:
    with serving((200, {"kind": "Pod"})) as (server, asked):
        assert kube(tmp_path, server).get("/api/v1/pods/a", watch="0") == {"kind": "Pod"}
        assert asked == [("GET", "/api/v1/pods/a?watch=0", "Bearer secret")]


def test_an_error_carries_the_message_of_the_status(tmp_path: Path) -> None:
    with serving((422, {"kind": "Status", "message": "spec.numNodes is invalid"})) as (server, _):
        with pytest.raises(ApiError, match=r"POST /jobs: 422 spec\.numNodes is invalid") as raised:
            kube(tmp_path, server).request("POST", "/jobs", {})
        assert raised.value.code == 422


def test_what_does_not_exist(tmp_path: Path) -> None:
    with serving((404, {}), (404, {}), (404, {}), (409, {})) as (server, _):
        client = kube(tmp_path, server)
        assert (client.find("/gone"), client.items("/gone")) == (None, [])
        client.delete("/gone")
        client.create("/there", {})


def test_only_reads_are_repeated(tmp_path: Path) -> None:
    with serving((429, "slow down"), (200, "ok"), (429, "slow down")) as (server, asked):
        client = kube(tmp_path, server, retries=1)
        assert client.get("/readyz") == {"text": "ok"}
        with pytest.raises(ApiError):
            client.request("POST", "/jobs", {})
        assert len(asked) == 3


def test_an_unreachable_server_has_status_0(tmp_path: Path) -> None:
    with serving() as (server, _):
        pass
    assert kube(tmp_path, server).status("/readyz") == 0


def test_a_wait_reports_what_it_saw_last() -> None:
    with pytest.raises(DeadlineExceeded, match="waited 0 s for the moon; last seen: None"):
        wait_for("the moon", lambda: None, 0.0, 0.0)
