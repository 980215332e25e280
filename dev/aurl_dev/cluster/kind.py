"""A kind cluster, for machines with Docker; volumes are provisioned as on a local cluster."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aurl_dev.cluster import provisioner, system
from aurl_dev.cluster.backend import Backend
from aurl_dev.cluster.shell import run, run_long, succeeds


class KindCluster(Backend):
    """A named kind cluster with a single node."""

    group = "kind"

    @property
    def kind_name(self) -> str:
        """kind's name of the cluster."""
        return f"aurl-{self.name}"

    @property
    def node(self) -> str:
        """The container that is the node."""
        return f"{self.kind_name}-control-plane"

    def up(self) -> None:
        """Create the cluster unless it exists and answers."""
        system.ensure(system.KUBECTL, self.echo)
        with self.lock():
            volumes = self.home / "volumes"
            volumes.mkdir(parents=True, exist_ok=True)
            if not (self.kubeconfig.exists() and succeeds([*self._kubectl(), "get", "--raw", "/readyz"])):
                self._kind("delete", "cluster", "--name", self.kind_name)
                config = self.home / "kind.json"
                mount = {"hostPath": str(volumes), "containerPath": str(volumes)}
                config.write_text(
                    json.dumps(
                        {
                            "kind": "Cluster",
                            "apiVersion": "kind.x-k8s.io/v1alpha4",
                            "nodes": [{"role": "control-plane", "extraMounts": [mount]}],
                        }
                    )
                )
                self._kind(
                    *("create", "cluster", "--name", self.kind_name, "--config", str(config)),
                    *("--kubeconfig", str(self.kubeconfig), "--wait", "180s"),
                )
            self._storage(volumes)
            self.echo(f"cluster {self.name}: up with kind ({self.kubeconfig})")

    def down(self) -> None:
        """Delete the cluster and its data."""
        with self.lock():
            self.processes.stop(self.processes.names())
            # Pods wrote the volumes with their own UIDs; inside the node they can be deleted.
            wipe = f"rm -rf '{self.home}/volumes/'*"
            succeeds(["docker", "exec", self.node, "sh", "-c", wipe], timeout=120)
            self._kind("delete", "cluster", "--name", self.kind_name)
            run(["rm", "-rf", self.home])
        self.echo(f"cluster {self.name}: deleted")

    def status(self) -> dict[str, Any]:
        """Return the cluster's state for people and scripts."""
        healthy = self.exists() and succeeds([*self._kubectl(), "get", "--raw", "/readyz"])
        return {
            "name": self.name,
            "kind": "kind",
            "exists": self.exists(),
            "healthy": healthy,
            "kubeconfig": str(self.kubeconfig),
        }

    def import_image(self, archive: Path) -> None:
        """Load an image archive into the node."""
        self._kind("load", "image-archive", str(archive), "--name", self.kind_name)

    def netns_command(self, argv: Sequence[str | Path]) -> list[str]:
        """Return the command that runs `argv` in the node's network (needs root)."""
        pid = run(["docker", "inspect", "--format", "{{.State.Pid}}", self.node]).strip()
        return ["nsenter", f"--net=/proc/{pid}/ns/net", "--", *map(str, argv)]

    def _storage(self, volumes: Path) -> None:
        # kind's own class provisions ReadWriteOnce only; ours serves all access modes on the single node.
        off = '{"metadata":{"annotations":{"storageclass.kubernetes.io/is-default-class":"false"}}}'
        succeeds([*self._kubectl(), "patch", "storageclass", "standard", "--type=merge", "-p", off])
        run([*self._kubectl(), "apply", "-f", "-"], stdin=json.dumps(provisioner.STORAGE_CLASS))
        config = self.home / "provisioner.kubeconfig"
        config.write_text(run([*self._kubectl(), "config", "view", "--raw", "--minify", "-o", "json"]))
        config.chmod(0o600)
        provisioner.start(self.processes, config, volumes)

    def _kubectl(self) -> list[str | Path]:
        return ["kubectl", "--kubeconfig", self.kubeconfig]

    def ctr(self) -> list[str]:
        """Return the start of a `ctr` command for the node's containerd."""
        return ["docker", "exec", self.node, "ctr", "--namespace", "k8s.io"]

    def _kind(self, *words: str) -> None:
        run_long(["kind", *words], f"cluster {self.name}: kind {words[0]}", self.echo)
