"""A mount namespace per cluster: the node's mounts are private and vanish with its last process."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aurl_dev.cluster.shell import run
from aurl_dev.errors import CommandError, MachineError


@dataclass(frozen=True)
class MountNamespace:
    """A mount namespace kept alive by a file below `folder`."""

    folder: Path

    @property
    def file(self) -> Path:
        """The file that the namespace is bound to."""
        return self.folder / "mnt"

    def exists(self) -> bool:
        """Return whether the namespace exists."""
        return str(self.file) in _mount_points()

    def create(self, binds: Mapping[Path, Path], empty: Sequence[Path]) -> None:
        """Create the namespace; each key of `binds` shows its value there, `empty` are private and empty."""
        self.remove()
        self.folder.mkdir(parents=True)
        # A namespace can only be bound to a file below a private mount.
        run(["mount", "--bind", self.folder, self.folder])
        run(["mount", "--make-private", self.folder])
        self.file.touch()
        script = ["set -e"]
        for at, source in binds.items():
            at.mkdir(parents=True, exist_ok=True)
            source.mkdir(parents=True, exist_ok=True)
            script.append(f"mount --bind '{source}' '{at}'")
        for at in empty:
            at.mkdir(parents=True, exist_ok=True)
            script.append(f"mount -t tmpfs -o mode=755 tmpfs '{at}'")
        # `slave`: the host can still unmount its own mounts; mounts made inside do not propagate out.
        self._unshare("\n".join(script))

    def _unshare(self, script: str) -> None:
        # A namespace can only be bound in an older one. Recent kernels (seen: 6.18) compare age by a number
        # that each CPU takes from its own block. If this process is in a namespace itself (a container), one
        # created on another CPU may look older than ours (EINVAL); one created on our CPU never does.
        failure: CommandError | None = None
        for cpu in sorted(os.sched_getaffinity(0)):
            unshare = ["unshare", f"--mount={self.file}", "--propagation=slave", "sh", "-c", script]
            try:
                run(["taskset", "--cpu-list", str(cpu), *unshare])
            except CommandError as error:
                failure = error
            else:
                return
        raise failure or MachineError("this process has no CPU to run on")

    def remove(self) -> None:
        """Unmount the namespace and delete the folder."""
        for _ in range(40):
            mounted = [point for point in (self.file, self.folder) if str(point) in _mount_points()]
            if not mounted:
                break
            try:
                run(["umount", mounted[0]])
            except CommandError:
                time.sleep(0.1)
        else:
            raise MachineError(f"cannot unmount {self.folder}")
        shutil.rmtree(self.folder, ignore_errors=True)


def _mount_points() -> list[str]:
    return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
