"""The node of a local cluster: containerd, CNI, kubelet and kube-proxy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aurl_dev.cluster import system
from aurl_dev.cluster.cgroups import Cgroups
from aurl_dev.cluster.network import Addresses
from aurl_dev.cluster.paths import Echo
from aurl_dev.cluster.pki import Pki
from aurl_dev.cluster.processes import Processes
from aurl_dev.cluster.shell import run, succeeds

CNI_PLUGINS = Path("/usr/lib/cni")
PAUSE_IMAGE = "localhost/aurl-pause:1"
NAMES = ("containerd", "kubelet", "kube-proxy")


@dataclass
class Node:
    """The node daemons of one cluster."""

    name: str
    home: Path
    run_dir: Path
    processes: Processes
    binaries: Path
    pki: Pki
    url: str
    addresses: Addresses
    cgroups: Cgroups
    enter: Sequence[str | Path]

    @property
    def socket(self) -> Path:
        """containerd's socket; below /run because a socket's path is limited to 107 characters."""
        return self.run_dir / "containerd.sock"

    def start_containerd(self, echo: Echo) -> None:
        """Start containerd and wait until it answers."""
        config = self.home / "containerd.toml"
        config.write_text(self._containerd())
        cni = self.home / "cni"
        cni.mkdir(exist_ok=True)
        (cni / "10-aurl.conflist").write_text(json.dumps(self._cni(), indent=1))
        self._start("containerd", [system.program("containerd"), "--config", config])
        self.processes.wait(
            "containerd",
            lambda: succeeds([*self.ctr(), "version"], 5),
            "does not answer",
            seconds=60,
            echo=echo,
        )

    def start(self) -> None:
        """Start kubelet and kube-proxy."""
        config = self.home / "kubelet.json"
        config.write_text(json.dumps(self._kubelet(), indent=1))
        kubeconfig = self.pki.write_kubeconfig(self.home / "kubelet.kubeconfig", self.url, "node")
        self._start(
            "kubelet",
            [
                self.binaries / "kubelet",
                f"--config={config}",
                f"--kubeconfig={kubeconfig}",
                "--container-runtime=remote",
                f"--container-runtime-endpoint=unix://{self.socket}",
                f"--hostname-override={self.name}",
                f"--node-ip={self.addresses.node}",
                # The pause image is loaded by this tool; the kubelet must not delete it.
                f"--pod-infra-container-image={PAUSE_IMAGE}",
            ],
        )
        proxy = self.pki.write_kubeconfig(self.home / "kube-proxy.kubeconfig", self.url, "proxy")
        self._start(
            "kube-proxy",
            [
                self.binaries / "kube-proxy",
                f"--kubeconfig={proxy}",
                f"--hostname-override={self.name}",
                "--proxy-mode=iptables",
                f"--cluster-cidr={self.addresses.pods}",
                # 0: these are settings of the machine, not of the namespace.
                "--conntrack-max-per-core=0",
                "--conntrack-tcp-timeout-established=0s",
                "--conntrack-tcp-timeout-close-wait=0s",
                # Ranks wait for new endpoints, so they must be reachable soon.
                "--iptables-min-sync-period=250ms",
            ],
        )

    def ctr(self) -> list[str]:
        """Return the start of a `ctr` command for this cluster's containerd."""
        return [str(system.program("ctr")), "--address", str(self.socket), "--namespace", "k8s.io"]

    def healthy(self) -> bool:
        """Return whether the daemons run."""
        return all(self.processes.alive(name) for name in NAMES)

    def _start(self, name: str, argv: Sequence[str | Path]) -> None:
        self.processes.start(name, [*self.enter, *argv], cgroup=self.cgroups.daemons)

    def _containerd(self) -> str:
        # overlay cannot be stacked on overlay, the file system of a machine that is itself a container.
        on_overlay = run(["stat", "-f", "-c", "%T", self.home]).strip() == "overlayfs"
        return f"""version = 2
root = "{self.home / "containerd"}"
state = "{self.run_dir / "containerd"}"
disabled_plugins = ["io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "{self.socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Without CAP_SYS_RESOURCE, as in many sandboxes, no process can lower its score below its parent's.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{"native" if on_overlay else "overlayfs"}"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{self.home / "cni"}"
"""

    def _cni(self) -> dict[str, object]:
        return {
            "cniVersion": "0.4.0",
            "name": "aurl",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "ipMasq": True,
                    # Rank 0 reaches itself through its own Service.
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": str(self.home / "ipam"),
                        "ranges": [[{"subnet": str(self.addresses.pods)}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }

    def _kubelet(self) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.pki.ca)},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            # Two kubelets with the same root would kill each other's pods as orphans.
            "cgroupRoot": self.cgroups.path,
            "failSwapOn": False,
            "clusterDomain": "cluster.local",
            # No name server: where nobody listens, a query fails immediately instead of timing out.
            "clusterDNS": [str(self.addresses.node)],
            "resolvConf": str(self.home / "resolv.conf"),
            "healthzPort": 10248,
            # The disk belongs to the machine: the kubelet must not delete images when it fills up.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "100Mi"},
            "enableControllerAttachDetach": False,
            "nodeStatusUpdateFrequency": "4s",
            "syncFrequency": "10s",
            "volumeStatsAggPeriod": "1m0s",
            "shutdownGracePeriod": "0s",
            # Tests create many short-lived pods.
            "maxPods": 250,
            "registryPullQPS": 0,
            "eventRecordQPS": 50,
            "kubeAPIQPS": 50,
            "kubeAPIBurst": 100,
        }
