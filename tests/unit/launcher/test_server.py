"""The launcher's server: idle clients are bounded, and a failed answer does not stop it."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator

import pytest

from aurl_trainer.launcher import server
from aurl_trainer.launcher.server import LauncherServer


def broken() -> bytes:
    raise ZeroDivisionError("<b>no</b>")


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[LauncherServer]:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)
    started = LauncherServer(0, {"/": ("text/plain", lambda: b"here"), "/broken": ("text/html", broken)})
    started.start()
    yield started
    started.close()


def status(running: LauncherServer, path: str = "/") -> tuple[int, str]:
    """Status and type of an answer; 0 where the connection was closed without one."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"]
    except (ConnectionError, http.client.BadStatusLine):
        return 0, ""
    finally:
        connection.close()


def eventually(running: LauncherServer, wanted: int) -> None:
    deadline = time.monotonic() + 60
    while status(running)[0] != wanted:
        assert time.monotonic() < deadline


def test_idle_clients_are_bounded_and_free_their_slots(running: LauncherServer) -> None:
    idle = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(2)]
    eventually(running, 0)
    idle[0].close()
    eventually(running, 200)
    idle[1].close()


def test_a_failed_answer_is_plain_text(running: LauncherServer) -> None:
    assert status(running, "/broken") == (500, "text/plain")
    assert status(running)[0] == 200
