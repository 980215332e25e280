"""A whole single-node Kubernetes on this machine, in namespaces and cgroups of its own."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aurl_dev.cluster import binaries, pause, pki, system
from aurl_dev.cluster.cgroups import Cgroups
from aurl_dev.cluster.control_plane import ControlPlane
from aurl_dev.cluster.mounts import MountNamespace
from aurl_dev.cluster.network import Addresses, Namespace, read_addresses
from aurl_dev.cluster.node import NAMES as NODE_DAEMONS
from aurl_dev.cluster.node import PAUSE_IMAGE, Node
from aurl_dev.cluster.paths import CHECKOUT, Echo, lock, state_dir
from aurl_dev.cluster.processes import Processes
from aurl_dev.cluster.provisioner import STORAGE_CLASS
from aurl_dev.cluster.shell import run, run_long
from aurl_dev.errors import ClusterError, MachineError, StartError
from aurl_dev.kube import ApiError, Kube

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_PROVISIONER = "provisioner"
# An API server waits for its watches; nothing here is lost when it is not let.
_GRACE_SECONDS = 4

# Paths that the programs have built in, and where a kubelet deletes what it does not know.
_KUBELET = Path("/var/lib/kubelet")
_POD_LOGS = Path("/var/log/pods")
_CONTAINER_LOGS = Path("/var/log/containers")
_SHIM_SOCKETS = Path("/run/containerd")
_CNI_CACHE = Path("/var/lib/cni")


@dataclass
class LocalCluster:
    """One named cluster: what it is on disk lies below `home`, what it is in memory below `run_dir`."""

    name: str
    echo: Echo = print
    home: Path = field(init=False)
    run_dir: Path = field(init=False)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ClusterError(f"{self.name!r} cannot name a cluster: lower-case letters, digits and dashes")
        self.home = state_dir() / "clusters" / self.name
        # Two checkouts with state directories of their own may use one name.
        place = hashlib.sha256(str(self.home).encode()).hexdigest()[:6]
        ident = f"{self.name}-{place}"
        self.run_dir = Path("/run/aurl") / ident
        self.namespace = Namespace(ident)
        self.mounts = MountNamespace(self.run_dir / "ns")
        self.cgroups = Cgroups(ident)
        self.processes = Processes(self.home)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.home / "kubeconfig"

    @property
    def node_name(self) -> str:
        """The name of the only node."""
        return f"aurl-{self.name}"

    def exists(self) -> bool:
        """Say whether there is anything of this cluster."""
        return self.home.is_dir()

    def up(self) -> None:
        """Bring the cluster up: return at once when it is, repair what is broken, start what is not there."""
        system.require_root("a local cluster")
        with self._lock():
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
                # Repairing in place did not do. All daemons anew, on the same data, is the second remedy.
                self.echo(f"cluster {self.name}: {str(error).splitlines()[0]}; restarting all of it")
                self._stop()
                self._start(built, image)
            self.echo(f"cluster {self.name}: ready after {time.monotonic() - began:.0f} s")

    def down(self) -> None:
        """Stop the cluster and delete everything of it, also when it is only half there."""
        system.require_root("a local cluster")
        with self._lock():
            self._delete()
        self.echo(f"cluster {self.name}: gone")

    def healthy(self) -> bool:
        """Say whether all daemons run, the API is ready and the node is."""
        daemons = self._daemons()
        if daemons is None:
            return False
        plane, node = daemons
        return (
            plane.healthy()
            and node.healthy()
            and self.processes.alive(_PROVISIONER)
            and self._node_ready(Kube(self.kubeconfig))
        )

    def status(self) -> dict[str, Any]:
        """Return what a person asks: where it is, what runs, whether it is well."""
        addresses = self._addresses()
        running = {name: self.processes.alive(name) for name in self._names()} if self.exists() else {}
        return {
            "name": self.name,
            "kind": "local",
            "exists": self.exists(),
            "healthy": self.exists() and self.healthy(),
            "kubeconfig": str(self.kubeconfig),
            "network_namespace": self.namespace.name,
            "node": str(addresses.node) if addresses else None,
            "pods": str(addresses.pods) if addresses else None,
            "services": str(addresses.services) if addresses else None,
            "processes": running,
        }

    def netns_command(self, argv: Sequence[str | Path]) -> list[str]:
        """Return the command that runs `argv` in the cluster's network."""
        return self.namespace.command(argv)

    def has_image(self, reference: str) -> bool:
        """Say whether the node has an image of this name."""
        return self._running_node().has_image(reference)

    def import_image(self, archive: Path) -> None:
        """Load an image archive (docker-archive or oci-archive) into the node."""
        node = self._running_node()
        run_long(
            [*self._enter(), *node.ctr(), "images", "import", archive],
            f"cluster {self.name}: loading {archive.name}",
            self.echo,
        )

    def tag_image(self, reference: str, name: str) -> None:
        """Give an image of the node a second name."""
        run([*self._running_node().ctr(), "images", "tag", "--force", reference, name])

    def remove_image(self, reference: str) -> None:
        """Remove the name of an image from the node; the data goes when no other name holds it."""
        run([*self._running_node().ctr(), "images", "rm", reference])

    # -- making -------------------------------------------------------------------------------------------

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
        node.start_containerd(self.echo)  # while the API server reads its certificates and fills etcd
        if not node.has_image(PAUSE_IMAGE):
            self.import_image(pause_image)
        plane.wait_ready(self.echo)
        plane.start_controllers()
        node.start(self.echo)
        api = Kube(self.kubeconfig)
        api.create("/apis/storage.k8s.io/v1/storageclasses", STORAGE_CLASS)
        self._start_provisioner(keys, plane.url)
        plane.wait_for_accounts()
        self._wait_for_node(api)

    def _surroundings(self) -> Addresses:
        """Return the addresses of the cluster's network; makes network, mounts and cgroups where missing."""
        # Below /run, so that after a reboot nobody takes the noted surroundings for existing ones.
        complete = self.run_dir / "complete"
        addresses = self._addresses()
        if addresses and complete.exists() and self.namespace.exists() and self.mounts.exists():
            self.cgroups.create()
            return addresses
        self._stop()
        self.run_dir.mkdir(parents=True, exist_ok=True)
        before, addresses = addresses, self.namespace.create(self._network_file, self.echo)
        if before is not None and before != addresses:
            # Certificates, Services and pods all carry the old addresses.
            self.echo(f"cluster {self.name}: its addresses {before.block} are taken, starting from nothing")
            self._delete()
            self.home.mkdir(parents=True, mode=0o700)
            self.run_dir.mkdir(parents=True)
            addresses = self.namespace.create(self._network_file, self.echo)
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
        # No name server: pods get an empty file rather than one that points to the host's loopback.
        (self.home / "resolv.conf").write_text("")
        complete.touch()
        return addresses

    def _make(self, built: Path, keys: pki.Pki, addresses: Addresses) -> tuple[ControlPlane, Node]:
        plane = ControlPlane(
            home=self.home,
            processes=self.processes,
            binaries=built,
            pki=keys,
            address=str(addresses.node),
            service_cidr=str(addresses.services),
            enter=self._enter(),
            cgroup=self.cgroups.daemons,
            with_nodes=True,
        )
        node = Node(
            name=self.node_name,
            home=self.home,
            run_dir=self.run_dir,
            processes=self.processes,
            binaries=built,
            pki=keys,
            url=plane.url,
            addresses=addresses,
            cgroups=self.cgroups,
            enter=self._enter(),
        )
        return plane, node

    def _start_provisioner(self, keys: pki.Pki, url: str) -> None:
        config = keys.write_kubeconfig(self.home / "provisioner.kubeconfig", url, "provisioner")
        volumes = self.home / "volumes"
        volumes.mkdir(exist_ok=True)
        self.processes.start(
            _PROVISIONER,
            [
                *(sys.executable, "-m", "aurl_dev.cluster.provisioner"),
                *("--kubeconfig", config, "--root", volumes),
            ],
            env={"PYTHONPATH": str(CHECKOUT / "dev")},
            cgroup=self.cgroups.daemons,
        )

    def _wait_for_node(self, api: Kube, timeout: float = 90) -> None:
        began = said = time.monotonic()
        while not self._node_ready(api):
            for name in self._names():
                self.processes.check(name)
            now = time.monotonic()
            if now - began > timeout:
                reason = f"node not ready after {timeout:.0f} s"
                raise StartError("kubelet", reason, self.processes.log("kubelet"))
            if now - said > 8:
                said = now
                self.echo(f"cluster {self.name}: waiting for the node, {now - began:.0f} s")
            time.sleep(0.2)

    def _node_ready(self, api: Kube) -> bool:
        try:
            node = api.get(f"/api/v1/nodes/{self.node_name}")
        except ClusterError:
            return False
        conditions = {c["type"]: c["status"] for c in node.get("status", {}).get("conditions", [])}
        return conditions.get("Ready") == "True" and not node["spec"].get("taints")

    # -- unmaking -----------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Stop every process of the cluster; data and images stay."""
        names = self.processes.names()
        first = [name for name in names if name in {"kubelet", "kube-proxy", _PROVISIONER}]
        last = [name for name in names if name == "etcd"]
        self.processes.stop(first, _GRACE_SECONDS)
        self.processes.stop([name for name in names if name not in {*first, *last}], _GRACE_SECONDS)
        self.processes.stop(last, _GRACE_SECONDS)
        # Shims and containers outlive containerd, and a run that was killed may have left anything.
        self.cgroups.kill()

    def _delete(self) -> None:
        self._stop()
        self.mounts.remove()
        self.namespace.remove()
        self.cgroups.remove()
        shutil.rmtree(self.run_dir, ignore_errors=True)
        shutil.rmtree(self.home, ignore_errors=True)
        if self.home.exists():
            raise MachineError(f"{self.home} could not be deleted")
        # The directories that were mounted over stay, empty. Deleting one would take it, mount and all, from
        # every other cluster: the kernel lets go of mounts in other namespaces rather than refuse.

    # -- asking -------------------------------------------------------------------------------------------

    @property
    def _network_file(self) -> Path:
        return self.home / "network"

    def _addresses(self) -> Addresses | None:
        return read_addresses(self._network_file)

    def _enter(self) -> list[str]:
        return ["nsenter", f"--net={self.namespace.path}", f"--mount={self.mounts.file}", "--"]

    def _names(self) -> list[str]:
        plane = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]
        return [*plane, *NODE_DAEMONS, _PROVISIONER]

    def _daemons(self) -> tuple[ControlPlane, Node] | None:
        addresses = self._addresses()
        if addresses is None or not (self.home / "pki").is_dir():
            return None
        # Only asked, not started: where the binaries are does not matter here.
        return self._make(Path("/nonexistent"), pki.Pki(self.home / "pki"), addresses)

    def _running_node(self) -> Node:
        daemons = self._daemons()
        if daemons is None:
            raise ClusterError(f"the cluster {self.name} is not up")
        return daemons[1]

    def _lock(self) -> Any:
        return lock(self.home.with_name(f"{self.name}.lock"), f"cluster {self.name}", self.echo)
