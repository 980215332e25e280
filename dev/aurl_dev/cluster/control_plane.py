"""etcd, kube-apiserver, controller-manager and scheduler, alone (API-only) or as part of a cluster."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from aurl_dev.cluster import binaries, pki, system
from aurl_dev.cluster.paths import Echo, state_dir
from aurl_dev.cluster.pki import Pki
from aurl_dev.cluster.processes import Processes, identity_of
from aurl_dev.errors import StartError
from aurl_dev.kube import Kube
from aurl_dev.ports import free_ports

# Without nodes: what makes namespaces usable and deletes what is owned. Above all not `podgc`, which tidies
# away pods that a test has bound to a node that does not exist.
_CONTROLLERS_WITHOUT_NODES = (
    "clusterrole-aggregation",
    "deployment",
    "disruption",
    "endpoint",
    "endpointslice",
    "garbagecollector",
    "job",
    "namespace",
    "persistentvolume-binder",
    "pvc-protection",
    "replicaset",
    "resourcequota",
    "root-ca-cert-publisher",
    "serviceaccount",
    "serviceaccount-token",
)


@dataclass(frozen=True)
class Ports:
    """The ports of one control plane; fixed inside a network namespace, free ones outside."""

    api: int = 6443
    etcd: int = 2379
    etcd_peer: int = 2380


@dataclass
class ControlPlane:
    """The control plane daemons of one cluster, all below one directory."""

    home: Path
    processes: Processes
    binaries: Path
    pki: Pki
    address: str = "127.0.0.1"
    service_cidr: str = "10.96.0.0/16"
    ports: Ports = field(default_factory=Ports)
    enter: Sequence[str | Path] = ()
    cgroup: Path | None = None
    # With a kubelet there is a scheduler, and the node controllers have something to look at.
    with_nodes: bool = False
    with_controller_manager: bool = True
    # More flags of the controller-manager; a benchmark lifts its limits.
    controller_flags: Sequence[str] = ()

    @property
    def url(self) -> str:
        """Where the API server listens."""
        return f"https://{self.address}:{self.ports.api}"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.home / "kubeconfig"

    def names(self) -> list[str]:
        """Return the daemons in the order in which they start."""
        names = ["etcd", "kube-apiserver"]
        if self.with_controller_manager:
            names.append("kube-controller-manager")
        if self.with_nodes:
            names.append("kube-scheduler")
        return names

    def start(self, echo: Echo) -> None:
        """Start what does not run and wait until all of it is of use."""
        self.start_api()
        self.wait_ready(echo)
        self.start_controllers()
        self.wait_for_accounts()

    def start_api(self) -> None:
        """Start etcd and the API server where they do not run."""
        self.pki.write_kubeconfig(self.kubeconfig, self.url, "admin")
        if not self.processes.alive("etcd"):
            # An API server that lost its etcd waits up to two minutes before it tries each connection again.
            self.processes.stop(["kube-apiserver"], grace_seconds=1)
        self._start("etcd", self._etcd())
        self._start("kube-apiserver", self._apiserver())

    def start_controllers(self) -> None:
        """Start the controllers and the scheduler; before the API is ready they would only fail and retry."""
        if self.with_controller_manager:
            self._start("kube-controller-manager", self._controller_manager())
        if self.with_nodes:
            self._start("kube-scheduler", self._scheduler())

    def stop(self) -> None:
        """Stop the daemons, those that need the API first."""
        etcd, api, *others = self.names()
        self.processes.stop(others)
        self.processes.stop([api])
        self.processes.stop([etcd])

    def healthy(self) -> bool:
        """Say whether every daemon runs and the API server calls itself ready."""
        running = all(self.processes.alive(name) for name in self.names())
        return running and self.kubeconfig.exists() and self._ask("/readyz") == 200

    def wait_ready(self, echo: Echo, timeout: float = 120) -> None:
        """Wait until the API server calls itself ready."""
        began = said = time.monotonic()
        while (status := self._ask("/readyz")) != 200:
            self.processes.check("etcd")
            self.processes.check("kube-apiserver")
            now = time.monotonic()
            if now - began > timeout:
                reason = f"not ready after {timeout:.0f} s (last answer: {status or 'none'})"
                raise StartError("kube-apiserver", reason, self.processes.log("kube-apiserver"))
            if now - said > 8:
                said = now
                echo(f"API server: starting, {now - began:.0f} s")
            time.sleep(0.1)

    def wait_for_accounts(self, timeout: float = 60) -> None:
        """Wait for the controllers' first work: without its service account a namespace takes no pods."""
        if not self.with_controller_manager:
            return
        deadline = time.monotonic() + timeout
        while self._ask("/api/v1/namespaces/default/serviceaccounts/default") != 200:
            self.processes.check("kube-controller-manager")
            if time.monotonic() > deadline:
                log = self.processes.log("kube-controller-manager")
                raise StartError("kube-controller-manager", f"no service account after {timeout:.0f} s", log)
            time.sleep(0.1)

    def _ask(self, path: str) -> int:
        return Kube(self.kubeconfig).status(path)

    def _start(self, name: str, argv: Sequence[str | Path]) -> None:
        self.processes.start(name, [*self.enter, *argv], cgroup=self.cgroup)

    def _etcd(self) -> list[str | Path]:
        client, peer = f"http://127.0.0.1:{self.ports.etcd}", f"http://127.0.0.1:{self.ports.etcd_peer}"
        return [
            system.program("etcd"),
            f"--data-dir={self.home / 'etcd'}",
            "--name=aurl",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=aurl={peer}",
            "--logger=zap",
            "--log-level=warn",
        ]

    def _apiserver(self) -> list[str | Path]:
        keys = self.pki
        disabled = [] if self.with_controller_manager else ["--disable-admission-plugins=ServiceAccount"]
        return [
            self.binaries / "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.ports.etcd}",
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            f"--secure-port={self.ports.api}",
            f"--service-cluster-ip-range={self.service_cidr}",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            "--enable-admission-plugins=NodeRestriction",
            *disabled,
            f"--client-ca-file={keys.ca}",
            f"--tls-cert-file={keys.certificate('apiserver')}",
            f"--tls-private-key-file={keys.key('apiserver')}",
            f"--kubelet-client-certificate={keys.certificate('apiserver-kubelet')}",
            f"--kubelet-client-key={keys.key('apiserver-kubelet')}",
            # Node names do not resolve here, and `kubectl logs` must not need them to.
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={keys.service_account_public}",
            f"--service-account-signing-key-file={keys.service_account_key}",
            # The endpoint of the `kubernetes` Service cannot be a loopback address.
            *(["--endpoint-reconciler-type=none"] if self.address.startswith("127.") else []),
        ]

    def _controller_manager(self) -> list[str | Path]:
        # Without nodes one identity serves all controllers (thirty accounts take seconds to make), and
        # system:kube-controller-manager alone may do none of their work.
        identity = "controller-manager" if self.with_nodes else "admin"
        config = self.pki.write_kubeconfig(self.home / "controller-manager.kubeconfig", self.url, identity)
        if self.with_nodes:
            scope = ["--use-service-account-credentials=true"]
        else:
            scope = [f"--controllers={','.join(_CONTROLLERS_WITHOUT_NODES)}", "--secure-port=0"]
        return [
            self.binaries / "kube-controller-manager",
            f"--kubeconfig={config}",
            "--leader-elect=false",
            f"--service-account-private-key-file={self.pki.service_account_key}",
            f"--root-ca-file={self.pki.ca}",
            "--port=0",
            # A dead node is to be noticed within a test's patience.
            "--node-monitor-grace-period=20s",
            "--node-monitor-period=2s",
            *scope,
            *self.controller_flags,
        ]

    def _scheduler(self) -> list[str | Path]:
        config = self.pki.write_kubeconfig(self.home / "scheduler.kubeconfig", self.url, "scheduler")
        return [
            self.binaries / "kube-scheduler",
            f"--kubeconfig={config}",
            "--leader-elect=false",
            "--port=0",
        ]


class ApiServer:
    """A real API server with etcd (and controller-manager) on free loopback ports, for the time of a `with`.

    No kubelet, no scheduler: the test plays them, by patching the status of pods.
    """

    def __init__(
        self,
        *,
        with_controller_manager: bool = True,
        controller_flags: Sequence[str] = (),
        echo: Echo = print,
    ) -> None:
        self._with_controller_manager, self._controller_flags = with_controller_manager, controller_flags
        self._echo = echo
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
            # Somebody may take a port between the choice and the start; then all daemons move.
            api, etcd, peer = free_ports(3)
            self._plane = ControlPlane(
                home=home,
                processes=Processes(home),
                binaries=built,
                pki=keys,
                ports=Ports(api=api, etcd=etcd, etcd_peer=peer),
                with_controller_manager=self._with_controller_manager,
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
        """Where the API server listens."""
        return self._running().url

    def stop_api(self) -> None:
        """Stop the API server alone, as in an outage; etcd keeps the data."""
        # It would wait for its open watches to end.
        self._running().processes.stop(["kube-apiserver"], grace_seconds=1)

    def start_api(self) -> None:
        """Start the API server again, at the same address."""
        self._running().start(self._echo)

    def _running(self) -> ControlPlane:
        if self._plane is None:
            raise StartError("API server", "is not running: use it as a context manager")
        return self._plane


def remove_abandoned(parent: Path) -> None:
    """Stop and delete API servers whose owner died without saying good-bye."""
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
