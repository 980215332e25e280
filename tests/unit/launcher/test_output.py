"""The output of children: every line becomes one line of JSON, and none is lost or torn."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from typing import Any

from aurl_trainer.launcher.output import MAX_LINE, ChildOutput
from launcher.harness import clean_environment

POD = {"AURL_JOB_NAME": "chorales", "AURL_ATTEMPT": "2", "RANK": "7"}
OURS = json.dumps({"time": "2026-01-01T00:00:00.000Z", "level": "info", "message": "step", "rank": 1})


def passed_on(*pieces: bytes) -> list[dict[str, Any]]:
    written: list[str] = []
    output = ChildOutput(written.append, POD)
    for piece in pieces:
        output.pipe.write(piece)
    output.drain()
    assert all("\n" not in line for line in written)
    return [json.loads(line) for line in written]


def test_log_lines_pass_unchanged_and_others_are_wrapped() -> None:
    ours, printed, empty = passed_on(f"{OURS}\n".encode(), b"plain words\n\n", b"{}\n")
    assert ours == json.loads(OURS)
    assert (printed["message"], printed["level"]) == ("plain words", "info")
    assert (printed["job"], printed["attempt"], printed["logger"]) == ("chorales", 2, "output")
    assert "rank" not in printed  # whose words these are is not known
    assert empty["message"] == "{}"


def test_lines_arrive_in_pieces_and_the_last_is_unterminated() -> None:
    whole = f"{OURS}\n".encode()
    lines = passed_on(whole[:10], whole[10:] + b"half ", b"a line\nthe ", b"end")
    assert [line["message"] for line in lines] == ["step", "half a line", "the end"]


def test_a_torn_log_line_is_wrapped() -> None:
    (torn,) = passed_on(OURS[:-9].encode() + b"\n")
    assert torn["message"] == OURS[:-9]


def test_the_level_of_torch_is_kept() -> None:
    lines = (
        b"E1125 18:00:00 1 torch/x.py:1] failed\n",
        b"[W1125 18:00:00.1 socket.cpp:1] slow\n",
        b"Error: no\n",
    )
    assert [line["level"] for line in passed_on(*lines)] == ["error", "warning", "info"]


def test_endless_lines_and_wild_bytes_are_harmless() -> None:
    lines = passed_on(b"x" * (2 * MAX_LINE + 10), b"\n\xff\xfe\x00\n")
    assert sum(len(line["message"]) for line in lines[:-1]) == 2 * MAX_LINE + 10
    assert all(len(line["message"]) <= 2 * MAX_LINE for line in lines)
    assert "\ufffd" in lines[-1]["message"]


def test_a_closed_log_does_not_stop_the_children() -> None:
    def broken(line: str) -> None:
        raise BrokenPipeError

    output = ChildOutput(broken, POD)
    for _ in range(100):
        output.pipe.write(b"x" * 10_000 + b"\n")  # more than a pipe holds
    output.drain()


def test_a_printed_line_is_one_write_even_unbuffered() -> None:
    """Two ranks that print into one pipe do not tear each other's lines; a datagram is one write."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    code = "from aurl_trainer import logs; logs.setup(); print('plain', 'words'); print('and more')"
    command = [sys.executable, "-u", "-c", code]
    with ours, theirs:
        subprocess.run(command, stdout=theirs.fileno(), env=clean_environment(), check=True, timeout=60)
        ours.setblocking(False)
        assert [ours.recv(4096), ours.recv(4096)] == [b"plain words\n", b"and more\n"]
