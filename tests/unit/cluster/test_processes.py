"""Only the process that was started is ever stopped."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from aurl_dev.cluster.processes import Identity, Processes, identity_of, parse_record
from aurl_dev.errors import StartError

STAT = "4242 (a (strange) name) S 1 4242 4242 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 2 3"


def test_start_time_is_found_behind_a_name_with_parentheses_and_spaces() -> None:
    assert parse_record(f"{STAT}\nboot-1\n") == Identity(4242, 987654, "boot-1")


@pytest.mark.parametrize("text", ["", "\n", "nonsense", "12", "12 (cut", "x (y) S 1 2\nboot"])
def test_a_truncated_record_is_not_an_identity(text: str) -> None:
    assert parse_record(text) is None


def test_the_same_pid_with_another_start_time_is_another_process() -> None:
    mine = identity_of(os.getpid())
    assert mine is not None
    assert mine.alive()
    assert not Identity(mine.pid, mine.start_ticks + 1, mine.boot).alive()
    assert not Identity(mine.pid, mine.start_ticks, "an earlier boot").alive()


def test_a_reused_pid_is_not_signalled(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as stranger:
        now = identity_of(stranger.pid)
        assert now is not None
        processes = Processes(tmp_path)
        processes.records.mkdir()
        stat = Path(f"/proc/{stranger.pid}/stat").read_text().strip()
        earlier = stat.replace(f" {now.start_ticks} ", f" {now.start_ticks - 1} ")
        (processes.records / "daemon").write_text(f"{earlier}\n{now.boot}\n")
        processes.stop(["daemon"])
        assert now.alive()
        stranger.kill()


def test_start_records_the_daemon_itself_and_stop_terminates_its_group(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.start("daemon", ["sh", "-c", "sleep 60 & echo $!; wait"])
    identity = processes.identity("daemon")
    assert identity is not None
    assert processes.alive("daemon")
    assert os.getpgid(identity.pid) == identity.pid
    deadline = time.monotonic() + 5
    while not processes.log("daemon").read_text().endswith("\n") and time.monotonic() < deadline:
        time.sleep(0.01)
    child = identity_of(int(processes.log("daemon").read_text()))
    assert child is not None
    processes.start("daemon", ["sh", "-c", "echo started twice"])
    assert processes.identity("daemon") == identity
    processes.stop(["daemon"])
    assert not processes.alive("daemon")
    assert processes.names() == []
    while child.alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not child.alive()


def test_a_daemon_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.start("stubborn", ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"])
    while "ready" not in processes.log("stubborn").read_text():
        time.sleep(0.01)
    processes.stop(["stubborn"], grace_seconds=0.3)
    assert not processes.alive("stubborn")


def test_check_reports_the_end_of_the_log(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.start("short", ["sh", "-c", "echo the reason; exit 3"])
    while processes.alive("short"):
        time.sleep(0.01)
    with pytest.raises(StartError, match="the reason"):
        processes.check("short")
