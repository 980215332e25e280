"""Isolate a local cluster from the machine: network and mount namespaces, cgroups."""

from __future__ import annotations

import shutil
from pathlib import Path

from aurl_dev.cluster.cgroups import Cgroups
from aurl_dev.cluster.mounts import MountNamespace
from aurl_dev.cluster.network import Addresses, Namespace, read_addresses
from aurl_dev.cluster.paths import Echo

# Paths compiled into the programs; a kubelet deletes files there that it does not know.
_KUBELET = Path("/var/lib/kubelet")
_POD_LOGS = Path("/var/log/pods")
_CONTAINER_LOGS = Path("/var/log/containers")
_SHIM_SOCKETS = Path("/run/containerd")
_CNI_CACHE = Path("/var/lib/cni")


class Sandbox:
    """The namespaces and cgroups of one cluster; their files are in `run_dir` and the cluster's `home`."""

    def __init__(self, ident: str, home: Path) -> None:
        self.home = home
        self.run_dir = Path("/run/aurl") / ident
        self.namespace = Namespace(ident)
        self.mounts = MountNamespace(self.run_dir / "ns")
        self.cgroups = Cgroups(ident)
        self._network_file = home / "network"
        # Below /run, so that it is gone after a reboot, as the namespaces are.
        self._complete = self.run_dir / "complete"

    def addresses(self) -> Addresses | None:
        """Return the addresses that the cluster was given when it was created."""
        return read_addresses(self._network_file)

    def complete(self) -> Addresses | None:
        """Return the addresses if network and mounts exist."""
        exists = self._complete.exists() and self.namespace.exists() and self.mounts.exists()
        return self.addresses() if exists else None

    def create_network(self, echo: Echo) -> Addresses:
        """Create the network namespace, again if it exists; prefers the addresses it had before."""
        self._complete.unlink(missing_ok=True)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        return self.namespace.create(self._network_file, echo)

    def create_rest(self) -> None:
        """Create mounts, cgroups and files if they are missing."""
        if not self._complete.exists():
            self.mounts.create(
                binds={
                    _KUBELET: self.home / "kubelet",
                    _POD_LOGS: self.home / "podlogs",
                    _CONTAINER_LOGS: self.home / "containerlogs",
                    _SHIM_SOCKETS: self.run_dir / "shims",
                },
                empty=[Path("/run/netns"), _CNI_CACHE],
            )
        self.cgroups.create()
        # No name server: pods get an empty file instead of one that points to the host's loopback.
        (self.home / "resolv.conf").write_text("")
        self._complete.touch()

    def enter(self) -> list[str]:
        """Return the start of a command that runs in the namespaces."""
        return ["nsenter", f"--net={self.namespace.path}", f"--mount={self.mounts.file}", "--"]

    def remove(self) -> None:
        """Delete namespaces and cgroups; no process of the cluster may be left.

        The directories that were mounted over stay, empty. Deleting one would take it, mount and all, from
        every other cluster: the kernel drops mounts in other namespaces rather than refuse.
        """
        self.mounts.remove()
        self.namespace.remove()
        self.cgroups.remove()
        shutil.rmtree(self.run_dir, ignore_errors=True)
