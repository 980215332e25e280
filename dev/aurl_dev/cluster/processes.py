"""Start daemons in their own process groups and stop exactly those, never a reused PID."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aurl_dev.cluster.paths import Echo
from aurl_dev.errors import StartError

# The shell writes the record before it becomes the daemon, so that no daemon ever runs unrecorded, even if
# the starting Python is killed.
_BECOME = """
record=$1; cgroup=$2; shift 2
[ -z "$cgroup" ] || echo $$ > "$cgroup" || exit 125
cat /proc/$$/stat /proc/sys/kernel/random/boot_id > "$record.tmp" && mv "$record.tmp" "$record" || exit 125
exec "$@"
"""


@dataclass(frozen=True)
class Identity:
    """A process, identified by PID, start time and boot: the kernel reuses a PID alone."""

    pid: int
    start_ticks: int
    boot: str

    def alive(self) -> bool:
        """Return whether this process still runs (a zombie does not)."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return state_of(stat) not in "ZX" and parse_record(f"{stat}\n{_boot_id()}") == self

    def signal_group(self, number: int) -> None:
        """Send a signal to the process group, if the process still runs."""
        if self.alive():
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                return


def parse_record(text: str) -> Identity | None:
    """Parse `/proc/<pid>/stat` followed by the boot id; None if the text is something else."""
    stat, _, boot = text.strip().rpartition("\n")
    # The name is in parentheses and may contain spaces and parentheses.
    pid, _, rest = stat.partition(" (")
    fields = rest.rpartition(")")[2].split()
    if not pid.strip().isdigit() or len(fields) < 20 or not fields[19].isdigit():
        return None
    return Identity(pid=int(pid), start_ticks=int(fields[19]), boot=boot.strip())


def state_of(stat: str) -> str:
    """Return the state letter in a `/proc/<pid>/stat` line."""
    return stat.rpartition(")")[2].split()[0]


def identity_of(pid: int) -> Identity | None:
    """Return the identity of the process that has this PID now."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return parse_record(f"{stat}\n{_boot_id()}")


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Processes:
    """The daemons of one cluster: a record and a log per name below one directory."""

    def __init__(self, home: Path) -> None:
        self.records = home / "processes"
        self.logs = home / "logs"

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cgroup: Path | None = None,
    ) -> None:
        """Start a daemon under `name` unless it runs."""
        if self.alive(name):
            return
        self.records.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        record = self.records / name
        record.unlink(missing_ok=True)
        procs = str(cgroup / "cgroup.procs") if cgroup else ""
        with self.log(name).open("ab") as log:
            child = subprocess.Popen(
                ["/bin/sh", "-c", _BECOME, "start", str(record), procs, *map(str, argv)],
                env={**os.environ, **env} if env else None,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Daemons outlive this process, and the checkout may be deleted.
                cwd="/",
            )
        deadline = time.monotonic() + 10
        while not record.exists():
            if child.poll() is not None or time.monotonic() > deadline:
                raise StartError(name, "did not start", self.log(name))
            time.sleep(0.01)

    def log(self, name: str) -> Path:
        """Return the log file of a daemon."""
        return self.logs / f"{name}.log"

    def names(self) -> list[str]:
        """Return the names that have a record, running or not."""
        if not self.records.is_dir():
            return []
        return sorted(file.name for file in self.records.iterdir() if file.suffix != ".tmp")

    def identity(self, name: str) -> Identity | None:
        """Return the recorded identity of a daemon."""
        try:
            return parse_record((self.records / name).read_text())
        except FileNotFoundError:
            return None

    def alive(self, name: str) -> bool:
        """Return whether the recorded process of this name runs."""
        identity = self.identity(name)
        if identity is None:
            return False
        _reap(identity.pid)
        return identity.alive()

    def check(self, name: str) -> None:
        """Raise `StartError` with the tail of the log if a daemon has terminated."""
        if not self.alive(name):
            raise StartError(name, "terminated unexpectedly", self.log(name))

    def wait(
        self,
        name: str,
        done: Callable[[], bool],
        trouble: str,
        *,
        seconds: float,
        echo: Echo,
        needs: Sequence[str] = (),
    ) -> None:
        """Wait until a daemon is usable, with a line of progress every few seconds.

        Raises:
            StartError: the daemon, or one that it `needs`, has terminated, or `trouble` lasted for `seconds`.
        """
        began = said = time.monotonic()
        while not done():
            for each in (*needs, name):
                self.check(each)
            now = time.monotonic()
            if now - began > seconds:
                raise StartError(name, f"{trouble} after {seconds:.0f} s", self.log(name))
            if now - said > 8:
                said = now
                echo(f"{name}: starting, {now - began:.0f} s")
            time.sleep(0.1)

    def stop(self, names: Iterable[str], grace_seconds: float = 10.0) -> None:
        """Stop daemons together: SIGTERM, and SIGKILL for those that still run after `grace_seconds`."""
        chosen = list(names)
        waiting = {name: found for name in chosen if (found := self.identity(name)) is not None}
        for number, patience in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 10.0)):
            for identity in waiting.values():
                identity.signal_group(number)
            deadline = time.monotonic() + patience
            while waiting and time.monotonic() < deadline:
                for name, identity in list(waiting.items()):
                    _reap(identity.pid)
                    if not identity.alive():
                        del waiting[name]
                if waiting:
                    time.sleep(0.05)
        for name in waiting:
            raise StartError(name, "still runs after SIGKILL", self.log(name))
        for name in chosen:
            (self.records / name).unlink(missing_ok=True)


def _reap(pid: int) -> None:
    # A child of this process stays a zombie until it is waited for.
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
