"""What kind and local clusters share: a directory for their data, and the images of their containerd."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

from aurl_dev.cluster.paths import Echo, lock, state_dir
from aurl_dev.cluster.processes import Processes
from aurl_dev.cluster.shell import run


class Backend(ABC):
    """A named cluster that this tool has created, with its data below `home`."""

    #: Directory of all clusters of this kind in the state directory.
    group: ClassVar[str]

    def __init__(self, name: str, echo: Echo = print) -> None:
        self.name, self.echo = name, echo
        self.home = state_dir() / self.group / name
        self.processes = Processes(self.home)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.home / "kubeconfig"

    def exists(self) -> bool:
        """Return whether the cluster exists, running or not."""
        return self.home.is_dir()

    @abstractmethod
    def ctr(self) -> list[str]:
        """Return the start of a `ctr` command for the node's containerd."""

    def has_image(self, reference: str) -> bool:
        """Return whether the node has an image of this name."""
        return bool(run([*self.ctr(), "images", "list", "-q", f"name=={reference}"]).strip())

    def tag_image(self, reference: str, name: str) -> None:
        """Give an image of the node a second name."""
        run([*self.ctr(), "images", "tag", "--force", reference, name])

    def lock(self) -> AbstractContextManager[None]:
        """Keep other processes from changing this cluster."""
        return lock(self.home.with_name(f"{self.name}.lock"), f"cluster {self.name}", self.echo)
