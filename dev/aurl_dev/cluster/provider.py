"""Choose a cluster (the user's own, kind if Docker runs, or a local one) and give all the same interface."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from aurl_dev.cluster import system
from aurl_dev.cluster.images import Image
from aurl_dev.cluster.kind import KindCluster
from aurl_dev.cluster.local import LocalCluster
from aurl_dev.cluster.paths import Echo, state_dir
from aurl_dev.cluster.shell import run, succeeds
from aurl_dev.errors import ClusterError

Kind = Literal["external", "kind", "local"]


@dataclass
class Cluster:
    """A running cluster of any kind."""

    name: str
    kind: Kind
    kubeconfig: Path
    echo: Echo = print
    backend: LocalCluster | KindCluster | None = field(default=None, repr=False)

    def load(self, image: Image) -> None:
        """Load an image into the nodes."""
        if self.backend is None:
            raise ClusterError("this cluster pulls images from a registry: use cluster.images.load")
        self.backend.import_image(image.archive)
        self.tag(image)

    def tag(self, image: Image) -> None:
        """Point the `:dev` tag of an image at this build on the nodes."""
        if self.backend is not None:
            self.backend.tag_image(image.reference, image.dev_reference)

    def has_image(self, reference: str) -> bool:
        """Return whether the nodes have an image of this name."""
        return self.backend is not None and self.backend.has_image(reference)

    def down(self) -> None:
        """Delete the cluster if this tool has created it."""
        if self.backend is None:
            self.echo(f"cluster of {self.kubeconfig}: not created by this tool, left unchanged")
        else:
            self.backend.down()

    def netns_command(self, argv: Sequence[str | Path]) -> list[str]:
        """Return the command that runs `argv`, a program of this machine, in a network that reaches pods."""
        return self.backend.netns_command(argv) if self.backend else [str(word) for word in argv]


def choose() -> Kind:
    """Return the kind of cluster that `ensure` would use."""
    if (own := _own()) is not None:
        return own[0]
    if os.environ.get("KUBECONFIG"):
        return "external"
    if shutil.which("kind") and shutil.which("docker") and succeeds(["docker", "info"], timeout=20):
        return "kind"
    return "local"


def ensure(name: str, echo: Echo = print, kind: Kind | None = None) -> Cluster:
    """Return a running cluster; starts one if there is none."""
    kind = kind or choose()
    if kind == "external":
        return _external(name, echo)
    if (own := _own()) is not None and own[0] == kind:
        name = own[1]
    backend: LocalCluster | KindCluster
    backend = LocalCluster(name, echo) if kind == "local" else KindCluster(name, echo)
    backend.up()
    return Cluster(name, kind, backend.kubeconfig, echo, backend)


def find(name: str, echo: Echo = print) -> LocalCluster | KindCluster:
    """Return the kind or local cluster of this name, running or not."""
    kind = KindCluster(name, echo)
    return kind if kind.exists() else LocalCluster(name, echo)


def _own() -> tuple[Kind, str] | None:
    """Return kind and name if KUBECONFIG names a cluster of this tool; `up` asks people to set it so."""
    given = os.environ.get("KUBECONFIG")
    if not given:
        return None
    path = Path(given).expanduser().absolute()
    kinds: dict[Path, Kind] = {state_dir() / "clusters": "local", state_dir() / "kind": "kind"}
    kind = kinds.get(path.parent.parent)
    return (kind, path.parent.name) if kind is not None and path.name == "kubeconfig" else None


def _external(name: str, echo: Echo) -> Cluster:
    # KUBECONFIG may list several files; kubectl merges them, other clients accept one.
    given = os.environ["KUBECONFIG"]
    files = [Path(part).expanduser() for part in given.split(os.pathsep) if part]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise ClusterError(f"KUBECONFIG names {', '.join(missing)}, which does not exist")
    if len(files) != 1:
        raise ClusterError(f"KUBECONFIG must name one file, but names {len(files)}: {given}")
    system.ensure(system.KUBECTL, echo)
    version = run(["kubectl", "--kubeconfig", files[0], "get", "--raw", "/version"], timeout=60)
    if "gitVersion" not in version:
        raise ClusterError(f"the API server of {files[0]} did not report its version: {version[:200]}")
    return Cluster(name, "external", files[0].resolve(), echo)
