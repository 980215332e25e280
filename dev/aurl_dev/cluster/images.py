"""Build the images with buildah, once per content, and load them into a cluster."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aurl_dev.cluster import base_image, provenance, system, wheels
from aurl_dev.cluster.buildah import buildah, folder
from aurl_dev.cluster.image_sources import VARIANTS, copy_inputs, distribution, inputs, tree_hash
from aurl_dev.cluster.paths import CHECKOUT, Echo, lock
from aurl_dev.cluster.shell import run, run_long, succeeds
from aurl_dev.errors import ClusterError

if TYPE_CHECKING:
    from aurl_dev.cluster.provider import Cluster

NAMES = ("operator", "trainer")


@dataclass(frozen=True)
class Image:
    """A built image: the reference that pods use, and the archive that holds it."""

    name: str
    reference: str
    archive: Path

    @property
    def dev_reference(self) -> str:
        """The same image under a tag that does not change with its content."""
        return self.reference.rpartition(":")[0] + ":dev"


def build(names: Sequence[str] = NAMES, echo: Echo = print) -> dict[str, Image]:
    """Build images, or take them from the cache if none of their inputs has changed."""
    return {name: _build(name, echo) for name in names}


def load(cluster: Cluster, images: Mapping[str, Image], echo: Echo = print) -> dict[str, Image]:
    """Load images into a cluster; returns them with the references that its pods use."""
    return {name: _load(cluster, image, echo) for name, image in images.items()}


def content_hash(name: str, checkout: Path = CHECKOUT) -> str:
    """Return the short hash of everything that affects an image."""
    source = tree_hash([checkout / path for path in inputs(name)], checkout)
    made_of = f"{source}{base_image.identity()}{platform.machine()}{provenance.timestamp()}"
    return hashlib.sha256(made_of.encode()).hexdigest()[:12]


# -- building ---------------------------------------------------------------------------------------------


def _build(name: str, echo: Echo) -> Image:
    tag = content_hash(name)
    reference = f"localhost/aurl-{name}:{tag}"
    archive = folder() / f"{name}-{tag}.tar"
    image = Image(name, reference, archive)
    if archive.exists():
        echo(f"image {name}: unchanged ({tag})")
        return image
    system.require_root("building images")
    system.ensure(system.IMAGE_BUILD, echo)
    wheelhouse = wheels.ensure(name, echo)
    with lock(folder() / "base.lock", "base image", echo):
        base = base_image.ensure(echo)
    with lock(folder() / f"{name}.lock", f"image {name}", echo):
        if archive.exists():
            return image
        began = time.monotonic()
        _bud(name, wheelhouse, base, reference, tag, echo)
        scratch = archive.with_suffix(".part")
        scratch.unlink(missing_ok=True)
        push = [*buildah(), "push", "--quiet", reference, f"docker-archive:{scratch}:{reference}"]
        run_long(push, f"image {name}: exporting", echo)
        scratch.replace(archive)
        _forget_old(name, keep=archive)
        size = archive.stat().st_size / 1e6
        echo(f"image {name}: built in {time.monotonic() - began:.0f} s, {size:.0f} MB ({tag})")
    return image


def digest_when_rebuilt(name: str) -> tuple[str, str]:
    """Build an image again without cached layers; return both digests."""
    first = build([name])[name]
    second = f"localhost/aurl-{name}:again"
    base, wheelhouse = base_image.ensure(print), wheels.ensure(name, print)
    with lock(folder() / f"{name}.lock", f"image {name}", print):
        try:
            _bud(name, wheelhouse, base, second, content_hash(name), print, layers=False)
            return _digest(first.reference), _digest(second)
        finally:
            succeeds([*buildah(), "rmi", second])


def _digest(reference: str) -> str:
    words = ("inspect", "--type", "image", "--format", "{{.FromImageDigest}}")
    return run([*buildah(), *words, reference]).strip()


def _bud(
    name: str, wheelhouse: Path, base: str, reference: str, tag: str, echo: Echo, *, layers: bool = True
) -> None:
    context = folder() / f"context-{name}"
    copy_inputs(name, context)
    version = provenance.version(distribution(name))
    about = provenance.labels(inputs(name), f"{version}-{tag}")
    if name in VARIANTS:
        about["VARIANT"] = VARIANTS[name]
    try:
        run_long(
            [
                *buildah(),
                *("bud", "--isolation", "chroot", "--pull-never", "--format", "oci"),
                *("--layers", *(() if layers else ("--no-cache",))),
                *("--timestamp", str(provenance.timestamp())),
                *("--build-arg", f"BASE_IMAGE={base}"),
                *(word for key, value in about.items() for word in ("--build-arg", f"{key}={value}")),
                *("--volume", f"{wheelhouse}:/wheels:ro"),
                *("--file", context / "images" / distribution(name) / "Containerfile"),
                *("--tag", reference, context),
            ],
            f"image {name}: building",
            echo,
            log=folder() / f"{name}.log",
        )
    finally:
        shutil.rmtree(context, ignore_errors=True)


def _forget_old(name: str, keep: Path) -> None:
    """Delete the archives and tags of all builds but the two newest."""
    archives = sorted(folder().glob(f"{name}-*.tar"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in archives[2:]:
        if old != keep:
            old.unlink(missing_ok=True)
            tag = old.stem.removeprefix(f"{name}-")
            succeeds([*buildah(), "rmi", f"localhost/aurl-{name}:{tag}"])


# -- loading ----------------------------------------------------------------------------------------------


def _load(cluster: Cluster, image: Image, echo: Echo) -> Image:
    began = time.monotonic()
    if cluster.kind == "external":
        registry = os.environ.get("AURL_REGISTRY", "").rstrip("/")
        if not registry:
            raise ClusterError(
                f"cannot load images into the nodes of the cluster of {cluster.kubeconfig}: set "
                "AURL_REGISTRY to a registry that you can push to and the cluster can pull from (for example "
                "AURL_REGISTRY=registry.example.com/team)"
            )
        pushed = replace(image, reference=f"{registry}/{image.reference.rpartition('/')[2]}")
        run_long(
            [*buildah(), "push", image.reference, f"docker://{pushed.reference}"],
            f"image {image.name}: pushing to {registry}",
            echo,
        )
        return pushed
    if cluster.has_image(image.reference):
        cluster.tag(image)  # `:dev` may name another build by now
        return image
    cluster.load(image)
    echo(f"image {image.name}: loaded in {time.monotonic() - began:.0f} s")
    return image
