"""A real API server on loopback ports for tests and benchmarks: etcd, kube-apiserver, controller-manager."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from aurl_dev.cluster import binaries, pki, system
from aurl_dev.cluster.control_plane import ControlPlane, Ports
from aurl_dev.cluster.paths import Echo, state_dir
from aurl_dev.cluster.processes import Processes, identity_of
from aurl_dev.errors import StartError
from aurl_dev.ports import free_ports


class ApiServer:
    """A real API server with etcd and controller-manager on free loopback ports, as a context manager.

    Without kubelet and scheduler: tests play both by patching the status of pods.
    """

    def __init__(self, *, controller_flags: Sequence[str] = (), echo: Echo = print) -> None:
        self._controller_flags, self._echo = controller_flags, echo
        self._plane: ControlPlane | None = None

    def __enter__(self) -> ApiServer:
        system.ensure(system.CONTROL_PLANE, self._echo)
        built = binaries.ensure(self._echo)
        parent = state_dir() / "api"
        remove_abandoned(parent)
        home = parent / secrets.token_hex(4)
        home.mkdir(parents=True, mode=0o700)
        owner = identity_of(os.getpid())
        (home / "owner").write_text(f"{owner.pid} {owner.start_ticks}" if owner else "")
        keys = pki.ensure(home / "pki", ["127.0.0.1", "localhost", "10.96.0.1", "kubernetes"], "none")
        for attempt in range(3):
            # Another process may take a port before the daemon binds it; then choose again for all.
            api, etcd, peer = free_ports(3)
            self._plane = ControlPlane(
                home=home,
                processes=Processes(home),
                binaries=built,
                pki=keys,
                ports=Ports(api=api, etcd=etcd, etcd_peer=peer),
                controller_flags=self._controller_flags,
            )
            try:
                self._plane.start(self._echo)
                return self
            except StartError as error:
                self._plane.stop()
                if attempt == 2 or "address already in use" not in str(error):
                    shutil.rmtree(home, ignore_errors=True)
                    raise
            except BaseException:
                self._plane.stop()
                shutil.rmtree(home, ignore_errors=True)
                raise
        raise AssertionError("unreachable")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        plane = self._running()
        plane.stop()
        shutil.rmtree(plane.home, ignore_errors=True)
        self._plane = None

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self._running().kubeconfig

    @property
    def url(self) -> str:
        """Address of the API server."""
        return self._running().url

    def _running(self) -> ControlPlane:
        if self._plane is None:
            raise StartError("API server", "is not running; use it in a `with` statement")
        return self._plane


def remove_abandoned(parent: Path) -> None:
    """Stop and delete API servers whose owner was killed."""
    for home in parent.iterdir() if parent.is_dir() else ():
        try:
            pid, start = (home / "owner").read_text().split()
        except (FileNotFoundError, ValueError):
            continue
        owner = identity_of(int(pid))
        if owner is not None and owner.start_ticks == int(start):
            continue
        processes = Processes(home)
        processes.stop(processes.names())
        shutil.rmtree(home, ignore_errors=True)
