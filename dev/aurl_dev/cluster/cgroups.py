"""A cgroup subtree per cluster (v1 and v2): separates kubelets and finds every process of a cluster."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aurl_dev.errors import MachineError

ROOT = Path("/sys/fs/cgroup")
_V2_WANTED = ("cpuset", "cpu", "io", "memory", "pids")


def unified() -> bool:
    """Return whether the machine has cgroup v2 only."""
    return (ROOT / "cgroup.controllers").exists()


def hierarchies(mountinfo: str) -> dict[str, Path]:
    """Return the mount point of every version 1 hierarchy in `/proc/self/mountinfo`, by controller."""
    found = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind != "cgroup":
            continue
        for option in options.split(","):
            if option not in {"rw", "ro", "xattr"} and not option.startswith(("release_agent", "clone")):
                found[option.removeprefix("name=")] = Path(left.split()[4])
    return found


@dataclass(frozen=True)
class Cgroups:
    """The subtree `/aurl/<ident>`: `daemons` holds the cluster's processes, the kubelet adds `kubepods`."""

    ident: str

    @property
    def path(self) -> str:
        """The subtree as the kubelet's `cgroupRoot`."""
        return f"/aurl/{self.ident}"

    @property
    def daemons(self) -> Path:
        """The cgroup of the daemons.

        In v1 only in the freezer hierarchy, which limits and accounts nothing: the daemons keep the limits of
        the process that starts the cluster.
        """
        base = ROOT if unified() else _version1()["freezer"]
        return base / "aurl" / self.ident / "daemons"

    def create(self) -> None:
        """Create the subtree in every hierarchy."""
        for base in _bases():
            here = base
            for part in ("aurl", self.ident):
                if unified():
                    _delegate(here)
                here = here / part
                here.mkdir(exist_ok=True)
                if (here / "cpuset.cpus").exists() and not unified():
                    # A cpuset without processors and memory nodes accepts no processes.
                    for name in ("cpuset.cpus", "cpuset.mems"):
                        if not (here / name).read_text().strip():
                            (here / name).write_text((here.parent / name).read_text())
            if unified():
                _delegate(here)
        self.daemons.mkdir(exist_ok=True)

    def processes(self) -> set[int]:
        """Return the PIDs of everything in the subtree: daemons, shims, containers."""
        return {pid for top in self._tops() for folder in _subtree(top) for pid in _pids(folder)}

    def kill(self, patience: float = 20.0) -> None:
        """Kill everything in the subtree and wait until it is gone."""
        deadline = time.monotonic() + patience
        while pids := self.processes():
            if time.monotonic() > deadline:
                raise MachineError(f"cannot kill processes of the cluster: {sorted(pids)}")
            for pid in pids:
                # The PIDs were read a moment ago; the kernel does not reuse one that fast.
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            for pid in pids:
                try:
                    os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    continue
            time.sleep(0.05)

    def remove(self) -> None:
        """Delete the subtree, and the common parent after the last cluster."""
        for top in self._tops():
            for folder in reversed(list(_subtree(top))):
                _rmdir(folder)
            try:
                top.parent.rmdir()
            except OSError:
                continue

    def left(self) -> list[Path]:
        """Return what is left of the subtree."""
        return list(self._tops())

    def _tops(self) -> Iterator[Path]:
        # In the hybrid layout runc creates empty directories in the v2 mount too.
        for base in (*_bases(), ROOT / "unified"):
            top = base / "aurl" / self.ident
            if top.is_dir():
                yield top


def _bases() -> list[Path]:
    return [ROOT] if unified() else sorted(set(_version1().values()))


def _version1() -> dict[str, Path]:
    found = hierarchies(Path("/proc/self/mountinfo").read_text())
    if not {"cpu", "memory", "freezer", "pids"} <= set(found):
        raise MachineError(
            f"a kubelet needs the cgroups cpu, memory, freezer and pids; found: {sorted(found)}"
        )
    return found


def _delegate(folder: Path) -> None:
    offered = (folder / "cgroup.controllers").read_text().split()
    wanted = [f"+{name}" for name in _V2_WANTED if name in offered]
    try:
        (folder / "cgroup.subtree_control").write_text(" ".join(wanted))
    except OSError as error:
        raise MachineError(f"cannot delegate cgroup controllers below {folder}: {error}") from error


def _subtree(top: Path) -> Iterator[Path]:
    yield top
    for folder, names, _ in os.walk(top):
        for name in names:
            yield Path(folder) / name


def _pids(folder: Path) -> list[int]:
    try:
        return [int(line) for line in (folder / "cgroup.procs").read_text().split()]
    except (FileNotFoundError, OSError):
        return []


def _rmdir(folder: Path) -> None:
    for _ in range(50):
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            # The kernel counts a process for a moment after it has terminated.
            time.sleep(0.05)
    raise MachineError(f"cannot delete the cgroup {folder}")
