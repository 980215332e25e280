"""The process duties of PID 1: start, signal and reap children, and leave none behind."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

PR_SET_CHILD_SUBREAPER = 36


class SignalInbox:
    """Collects SIGTERM, SIGINT and SIGCHLD and wakes `wait`; PID 1 has no default handlers."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.terminated_at: float | None = None
        """Time of the first SIGTERM or SIGINT in epoch seconds."""
        self.interrupts = 0
        """Number of SIGINT received; a second Ctrl-C means: stop immediately."""
        self._previous: dict[int, object] = {}
        self._previous_wakeup = -1

    def __enter__(self) -> SignalInbox:
        self._previous_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.set_wakeup_fd(self._previous_wakeup)
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        os.close(self._reader)
        os.close(self._writer)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self.interrupts += 1
        if number != signal.SIGCHLD and self.terminated_at is None:
            self.terminated_at = time.time()

    def wait(self, seconds: float) -> None:
        """Wait for a signal, at most `seconds`."""
        with contextlib.suppress(InterruptedError):
            select.select([self._reader], [], [], max(0.0, seconds))
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 4096)


class Child:
    """A child process in a session of its own, reaped together with every orphan that this process adopts."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], output: IO[bytes] | None = None
    ) -> None:
        """Start `command` with its output to `output` (default: inherited). Raises OSError if that fails."""
        adopt_orphans()
        self._process = subprocess.Popen(
            list(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output is not None else None,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.exit_code: int | None = None

    def reap(self) -> bool:
        """Reap all dead children; return True once this one has exited, with its code in `exit_code`."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == self.pid:
                # Popen must not wait for a process that was reaped here.
                self.exit_code = self._process.returncode = os.waitstatus_to_exitcode(status)
        return self.exit_code is not None

    def signal_group(self, number: int) -> None:
        """Send a signal to the child and its process group."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


def signal_all(pids: Iterable[int], number: int) -> None:
    """Send a signal to each process that still exists."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def is_alive(pid: int) -> bool:
    """Return True if process `pid` exists and is not a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return True


def adopt_orphans() -> None:
    """Adopt orphaned descendants as PID 1 does; a no-op on macOS."""
    if sys.platform == "linux" and os.getpid() != 1:
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants() -> set[int]:
    """Return the process IDs of all descendants; empty without /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found: set[int] = set()
    waiting = [os.getpid()]
    while waiting:
        for pid in children.get(waiting.pop(), []):
            found.add(pid)
            waiting.append(pid)
    return found


def kill_leftovers(known: Iterable[int], patience: float = 5.0) -> None:
    """SIGKILL and reap all descendants and the processes `known`; gives up after `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        left = {pid for pid in descendants() | set(known) if is_alive(pid)}
        signal_all(left, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not left or time.monotonic() > deadline:
            return
        time.sleep(0.02)
