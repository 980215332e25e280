"""A complete single-node Kubernetes on this machine, in its own namespaces and cgroups."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aurl_dev.cluster import binaries, pause, pki, provisioner, system
from aurl_dev.cluster.backend import Backend
from aurl_dev.cluster.control_plane import ControlPlane
from aurl_dev.cluster.network import Addresses
from aurl_dev.cluster.node import NAMES as NODE_DAEMONS
from aurl_dev.cluster.node import PAUSE_IMAGE, Node
from aurl_dev.cluster.paths import Echo
from aurl_dev.cluster.sandbox import Sandbox
from aurl_dev.cluster.shell import run_long
from aurl_dev.errors import ClusterError, MachineError, StartError
from aurl_dev.kube import ApiError, Kube

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
# An API server waits for its watches to end; nothing is lost by killing it earlier.
_GRACE_SECONDS = 4


class LocalCluster(Backend):
    """A named cluster in namespaces and cgroups of its own."""

    group = "clusters"

    def __init__(self, name: str, echo: Echo = print) -> None:
        if not _NAME.fullmatch(name):
            raise ClusterError(f"{name!r} cannot name a cluster: use lower-case letters, digits and dashes")
        super().__init__(name, echo)
        # Two checkouts with different state directories may use the same name.
        place = hashlib.sha256(str(self.home).encode()).hexdigest()[:6]
        self.sandbox = Sandbox(f"{self.name}-{place}", self.home)

    @property
    def node_name(self) -> str:
        """The name of the only node."""
        return f"aurl-{self.name}"

    def up(self) -> None:
        """Start the cluster, or repair it, or do nothing if it is healthy."""
        system.require_root("a local cluster")
        with self.lock():
            if self.exists() and self.healthy():
                self.echo(f"cluster {self.name}: up ({self.kubeconfig})")
                return
            system.ensure((*system.CONTROL_PLANE, *system.NODE, *system.KUBECTL), self.echo)
            built, image = binaries.ensure(self.echo), pause.ensure(self.echo)
            began = time.monotonic()
            found = self.exists()
            self.echo(f"cluster {self.name}: {'repairing' if found else 'starting'}")
            try:
                self._start(built, image)
            except (StartError, ApiError) as error:
                if not found:
                    raise
                # Repairing in place failed: restart all daemons on the same data.
                self.echo(f"cluster {self.name}: {str(error).splitlines()[0]}; restarting all daemons")
                self._stop()
                self._start(built, image)
            self.echo(f"cluster {self.name}: ready after {time.monotonic() - began:.0f} s")

    def down(self) -> None:
        """Stop the cluster and delete everything that belongs to it, even if it is incomplete."""
        system.require_root("a local cluster")
        with self.lock():
            self._delete()
        self.echo(f"cluster {self.name}: deleted")

    def healthy(self) -> bool:
        """Return whether all daemons run, and API server and node are ready."""
        daemons = self._daemons()
        if daemons is None:
            return False
        plane, node = daemons
        return (
            plane.healthy()
            and node.healthy()
            and self.processes.alive(provisioner.DAEMON)
            and self._node_ready(Kube(self.kubeconfig))
        )

    def status(self) -> dict[str, Any]:
        """Return the cluster's state for people and scripts."""
        addresses = self.sandbox.addresses()
        running = {name: self.processes.alive(name) for name in self._names()} if self.exists() else {}
        return {
            "name": self.name,
            "kind": "local",
            "exists": self.exists(),
            "healthy": self.exists() and self.healthy(),
            "kubeconfig": str(self.kubeconfig),
            "network_namespace": self.sandbox.namespace.name,
            "node": str(addresses.node) if addresses else None,
            "pods": str(addresses.pods) if addresses else None,
            "services": str(addresses.services) if addresses else None,
            "processes": running,
        }

    def netns_command(self, argv: Sequence[str | Path]) -> list[str]:
        """Return the command that runs `argv` in the cluster's network."""
        return self.sandbox.namespace.command(argv)

    def ctr(self) -> list[str]:
        """Return the start of a `ctr` command for the node's containerd."""
        daemons = self._daemons()
        if daemons is None:
            raise ClusterError(f"cluster {self.name} is not running")
        return daemons[1].ctr()

    def import_image(self, archive: Path) -> None:
        """Load an image archive (docker-archive or oci-archive) into the node."""
        run_long(
            [*self.sandbox.enter(), *self.ctr(), "images", "import", archive],
            f"cluster {self.name}: loading {archive.name}",
            self.echo,
        )

    # -- starting -----------------------------------------------------------------------------------------

    def _start(self, built: Path, pause_image: Path) -> None:
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        addresses = self._surroundings()
        keys = pki.ensure(
            self.home / "pki",
            [
                *("127.0.0.1", str(addresses.node), str(addresses.services[1]), "localhost", "kubernetes"),
                *("kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"),
            ],
            self.node_name,
        )
        plane, node = self._make(built, keys, addresses)
        plane.start_api()
        node.start_containerd(self.echo)  # while the API server starts
        if not self.has_image(PAUSE_IMAGE):
            self.import_image(pause_image)
        plane.wait_ready(self.echo)
        plane.start_controllers()
        node.start()
        api = Kube(self.kubeconfig)
        api.create("/apis/storage.k8s.io/v1/storageclasses", provisioner.STORAGE_CLASS)
        config = keys.write_kubeconfig(self.home / "provisioner.kubeconfig", plane.url, "provisioner")
        provisioner.start(self.processes, config, self.home / "volumes", self.sandbox.cgroups.daemons)
        plane.wait_for_accounts(self.echo)
        self.processes.wait(
            "kubelet",
            lambda: self._node_ready(api),
            "has no ready node",
            seconds=90,
            needs=self._names(),
            echo=self.echo,
        )

    def _surroundings(self) -> Addresses:
        """Return the addresses of the cluster; creates its sandbox unless that is complete."""
        addresses = self.sandbox.complete()
        if addresses is None:
            self._stop()
            before, addresses = self.sandbox.addresses(), self.sandbox.create_network(self.echo)
            if before is not None and before != addresses:
                # Certificates, Services and pods all carry the old addresses.
                self.echo(
                    f"cluster {self.name}: its addresses {before.block} are taken, starting from scratch"
                )
                self._delete()
                self.home.mkdir(parents=True, mode=0o700)
                addresses = self.sandbox.create_network(self.echo)
        self.sandbox.create_rest()
        return addresses

    def _make(self, built: Path, keys: pki.Pki, addresses: Addresses) -> tuple[ControlPlane, Node]:
        plane = ControlPlane(
            home=self.home,
            processes=self.processes,
            binaries=built,
            pki=keys,
            address=str(addresses.node),
            service_cidr=str(addresses.services),
            enter=self.sandbox.enter(),
            cgroup=self.sandbox.cgroups.daemons,
            with_nodes=True,
        )
        node = Node(
            name=self.node_name,
            home=self.home,
            run_dir=self.sandbox.run_dir,
            processes=self.processes,
            binaries=built,
            pki=keys,
            url=plane.url,
            addresses=addresses,
            cgroups=self.sandbox.cgroups,
            enter=self.sandbox.enter(),
        )
        return plane, node

    def _node_ready(self, api: Kube) -> bool:
        try:
            node = api.get(f"/api/v1/nodes/{self.node_name}")
        except ClusterError:
            return False
        conditions = {c["type"]: c["status"] for c in node.get("status", {}).get("conditions", [])}
        return conditions.get("Ready") == "True" and not node["spec"].get("taints")

    # -- stopping -----------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Stop every process of the cluster; data and images stay."""
        names = self.processes.names()
        first = [name for name in names if name in {"kubelet", "kube-proxy", provisioner.DAEMON}]
        last = [name for name in names if name == "etcd"]
        self.processes.stop(first, _GRACE_SECONDS)
        self.processes.stop([name for name in names if name not in {*first, *last}], _GRACE_SECONDS)
        self.processes.stop(last, _GRACE_SECONDS)
        # Shims and containers outlive containerd, and a killed run may have left other processes.
        self.sandbox.cgroups.kill()

    def _delete(self) -> None:
        self._stop()
        self.sandbox.remove()
        shutil.rmtree(self.home, ignore_errors=True)
        if self.home.exists():
            raise MachineError(f"cannot delete {self.home}")

    # -- state --------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        plane = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]
        return [*plane, *NODE_DAEMONS, provisioner.DAEMON]

    def _daemons(self) -> tuple[ControlPlane, Node] | None:
        addresses = self.sandbox.addresses()
        if addresses is None or not (self.home / "pki").is_dir():
            return None
        # Only queried, not started: the location of the binaries does not matter.
        return self._make(Path("/nonexistent"), pki.Pki(self.home / "pki"), addresses)
