"""etcd, kube-apiserver, controller-manager and scheduler, for an API server alone or a whole cluster."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aurl_dev.cluster import system
from aurl_dev.cluster.paths import Echo
from aurl_dev.cluster.pki import Pki
from aurl_dev.cluster.processes import Processes
from aurl_dev.kube import Kube

# Controllers that work without nodes: they make namespaces usable and delete owned objects. `podgc` must not
# run: it deletes pods that a test has bound to a node that does not exist.
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
    # Whether there is a kubelet, which needs the scheduler and the node controllers.
    with_nodes: bool = False
    # Extra flags of the controller-manager; a benchmark lifts its rate limits.
    controller_flags: Sequence[str] = ()

    @property
    def url(self) -> str:
        """Address of the API server."""
        return f"https://{self.address}:{self.ports.api}"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.home / "kubeconfig"

    def names(self) -> list[str]:
        """Return the daemons in start order."""
        names = ["etcd", "kube-apiserver", "kube-controller-manager"]
        return [*names, "kube-scheduler"] if self.with_nodes else names

    def start(self, echo: Echo) -> None:
        """Start daemons that do not run, and wait until all are usable."""
        self.start_api()
        self.wait_ready(echo)
        self.start_controllers()
        self.wait_for_accounts(echo)

    def start_api(self) -> None:
        """Start etcd and the API server unless they run."""
        self.pki.write_kubeconfig(self.kubeconfig, self.url, "admin")
        if not self.processes.alive("etcd"):
            # An API server that lost its etcd waits up to two minutes before it reconnects.
            self.processes.stop(["kube-apiserver"], grace_seconds=1)
        self._start("etcd", self._etcd())
        self._start("kube-apiserver", self._apiserver())

    def start_controllers(self) -> None:
        """Start the controllers and the scheduler, which need an API server that is ready."""
        self._start("kube-controller-manager", self._controller_manager())
        if self.with_nodes:
            self._start("kube-scheduler", self._scheduler())

    def stop(self) -> None:
        """Stop the daemons, clients of the API server first."""
        etcd, api, *others = self.names()
        self.processes.stop(others)
        self.processes.stop([api])
        self.processes.stop([etcd])

    def healthy(self) -> bool:
        """Return whether every daemon runs and the API server reports ready."""
        running = all(self.processes.alive(name) for name in self.names())
        return running and self.kubeconfig.exists() and self._ask("/readyz") == 200

    def wait_ready(self, echo: Echo) -> None:
        """Wait until the API server reports ready."""
        self.processes.wait(
            "kube-apiserver",
            lambda: self._ask("/readyz") == 200,
            "is not ready",
            seconds=120,
            needs=("etcd",),
            echo=echo,
        )

    def wait_for_accounts(self, echo: Echo) -> None:
        """Wait until the controllers have made the default service account; pods are refused without it."""
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self.processes.wait(
            "kube-controller-manager",
            lambda: self._ask(account) == 200,
            "has made no service account",
            seconds=60,
            echo=echo,
        )

    def _ask(self, path: str) -> int:
        return self._kube.status(path)

    @functools.cached_property
    def _kube(self) -> Kube:
        return Kube(self.kubeconfig)

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
            f"--client-ca-file={keys.ca}",
            f"--tls-cert-file={keys.certificate('apiserver')}",
            f"--tls-private-key-file={keys.key('apiserver')}",
            f"--kubelet-client-certificate={keys.certificate('apiserver-kubelet')}",
            f"--kubelet-client-key={keys.key('apiserver-kubelet')}",
            # Node names do not resolve here; `kubectl logs` uses the address.
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={keys.service_account_public}",
            f"--service-account-signing-key-file={keys.service_account_key}",
            # The endpoint of the `kubernetes` Service cannot be a loopback address.
            *(["--endpoint-reconciler-type=none"] if self.address.startswith("127.") else []),
        ]

    def _controller_manager(self) -> list[str | Path]:
        # Without nodes all controllers share one identity: creating thirty accounts takes seconds. It is the
        # administrator's, because system:kube-controller-manager lacks the controllers' rights.
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
            # Notice a dead node within the timeout of a test.
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
