"""Builds the images with buildah, once per content, and brings them to a cluster."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aurl_dev.cluster import provenance, system
from aurl_dev.cluster.paths import CHECKOUT, Echo, cache_dir, lock
from aurl_dev.cluster.shell import run, run_long, succeeds
from aurl_dev.errors import ClusterError, MachineError

if TYPE_CHECKING:
    from aurl_dev.cluster.provider import Cluster

NAMES = ("operator", "trainer")
#: Which build of PyTorch an image has. That for CUDA is several gigabytes larger; nothing here needs it.
VARIANTS = {"trainer": "cpu", "trainer-cuda": "cuda"}
_IGNORED = {"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", "build", "dist"}
_MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Image:
    """One built image: the name that pods use, and the archive that holds it."""

    name: str
    reference: str
    archive: Path

    @property
    def dev_reference(self) -> str:
        """The same image under a name that does not change with its content."""
        return self.reference.rpartition(":")[0] + ":dev"


def build(names: Sequence[str] = NAMES, echo: Echo = print, checkout: Path = CHECKOUT) -> dict[str, Image]:
    """Build images, or take them from the cache when nothing that goes into them has changed."""
    return {name: _build(name, echo, checkout) for name in names}


def distribution(name: str) -> str:
    """The directory of the checkout that an image is made of."""
    return name.partition("-")[0]


def load(cluster: Cluster, images: Mapping[str, Image], echo: Echo = print) -> dict[str, Image]:
    """Bring images to a cluster; returns them with the references that its pods use."""
    return {name: _load(cluster, image, echo) for name, image in images.items()}


def export(reference: str, archive: Path, echo: Echo = print) -> None:
    """Write an image of our build storage to an archive."""
    run_long(
        [*_buildah(), "push", "--quiet", reference, f"docker-archive:{archive}:{reference}"],
        f"image {reference}: exporting",
        echo,
    )


# -- what an image is made of -----------------------------------------------------------------------------


def tree_hash(paths: Iterable[Path], relative_to: Path) -> str:
    """Return a hash of the names and contents of files and of all files below directories."""
    digest = hashlib.sha256()
    for path in sorted(file for given in paths for file in _files(given)):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(relative_to)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = []
    for folder, names, files in os.walk(path):
        names[:] = [name for name in names if name not in _IGNORED and not name.endswith(".egg-info")]
        found += [Path(folder) / name for name in files if not name.endswith(".pyc")]
    return found


def content_hash(name: str, checkout: Path = CHECKOUT) -> str:
    """Return the short hash of everything that decides what an image holds."""
    source = tree_hash([checkout / path for path in _inputs(name)], checkout)
    base = os.environ.get("AURL_BASE_IMAGE") or _base_hash()
    made_of = f"{source}{base}{platform.machine()}{provenance.timestamp()}"
    return hashlib.sha256(made_of.encode()).hexdigest()[:12]


# -- building ---------------------------------------------------------------------------------------------


def _build(name: str, echo: Echo, checkout: Path) -> Image:
    tag = content_hash(name, checkout)
    reference = f"localhost/aurl-{name}:{tag}"
    archive = _folder() / f"{name}-{tag}.tar"
    image = Image(name, reference, archive)
    if archive.exists():
        echo(f"image {name}: unchanged ({tag})")
        return image
    system.require_root("building images")
    system.ensure(system.IMAGE_BUILD, echo)
    wheels = _wheels(name, checkout, echo)
    with lock(_folder() / "base.lock", "base image", echo):
        base = os.environ.get("AURL_BASE_IMAGE") or _base(echo)
    with lock(_folder() / f"{name}.lock", f"image {name}", echo):
        if archive.exists():
            return image
        began = time.monotonic()
        _bud(name, checkout, wheels, base, reference, tag, echo)
        scratch = archive.with_suffix(".part")
        scratch.unlink(missing_ok=True)
        export(reference, scratch, echo)
        scratch.replace(archive)
        _forget_old(name, keep=archive)
        size = archive.stat().st_size / 1e6
        echo(f"image {name}: built in {time.monotonic() - began:.0f} s, {size:.0f} MB ({tag})")
    return image


def digest_when_built_anew(name: str, echo: Echo = print, checkout: Path = CHECKOUT) -> tuple[str, str]:
    """Build an image a second time, without a cache of layers; return both digests."""
    first = build([name], echo, checkout)[name]
    second = f"localhost/aurl-{name}:again"
    base = os.environ.get("AURL_BASE_IMAGE") or _base(echo)
    wheels = _wheels(name, checkout, echo)
    with lock(_folder() / f"{name}.lock", f"image {name}", echo):
        try:
            _bud(name, checkout, wheels, base, second, content_hash(name, checkout), echo, layers=False)
            return _digest(first.reference), _digest(second)
        finally:
            succeeds([*_buildah(), "rmi", second])


def _digest(reference: str) -> str:
    words = ("inspect", "--type", "image", "--format", "{{.FromImageDigest}}")
    return run([*_buildah(), *words, reference]).strip()


def _bud(
    name: str,
    checkout: Path,
    wheels: Path,
    base: str,
    reference: str,
    tag: str,
    echo: Echo,
    *,
    layers: bool = True,
) -> None:
    context = _context(name, checkout)
    version = provenance.version(checkout, distribution(name))
    about = provenance.labels(checkout, _inputs(name), f"{version}-{tag}")
    if name in VARIANTS:
        about["VARIANT"] = VARIANTS[name]
    try:
        run_long(
            [
                *_buildah(),
                *("bud", "--isolation", "chroot", "--pull-never", "--format", "oci"),
                *("--layers", *(() if layers else ("--no-cache",))),
                *("--timestamp", str(provenance.timestamp())),
                *("--build-arg", f"BASE_IMAGE={base}"),
                *(word for key, value in about.items() for word in ("--build-arg", f"{key}={value}")),
                *("--volume", f"{wheels}:/wheels:ro"),
                *("--file", context / "images" / distribution(name) / "Containerfile"),
                *("--tag", reference, context),
            ],
            f"image {name}: building",
            echo,
            log=_folder() / f"{name}.log",
        )
    finally:
        shutil.rmtree(context, ignore_errors=True)


def _inputs(name: str) -> tuple[str, ...]:
    """What goes into an image, as paths of the checkout."""
    return f"images/{distribution(name)}", "images/install.py", distribution(name)


def _context(name: str, checkout: Path) -> Path:
    # A copy of exactly what was hashed: the tree may be edited, or full of caches, while this builds.
    context = _folder() / f"context-{name}"
    shutil.rmtree(context, ignore_errors=True)
    for path in _inputs(name):
        for file in _files(checkout / path):
            copy = context / file.relative_to(checkout)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
            # Layers are cached by content and mode; dates of a fresh checkout must not matter.
            os.utime(copy, (0, 0))
            copy.chmod(0o644)
    return context


def _folder() -> Path:
    folder = cache_dir() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _buildah() -> list[str | Path]:
    # A storage of our own: the system's may be used by somebody else, and ours can be deleted with the cache.
    home = cache_dir() / "buildah"
    home.mkdir(parents=True, exist_ok=True)
    on_overlay = run(["stat", "-f", "-c", "%T", home]).strip() == "overlayfs"
    driver = "vfs" if on_overlay else "overlay"  # overlay cannot be stacked on overlay
    return [
        system.program("buildah"),
        *("--root", home / "root", "--runroot", home / "run", "--storage-driver", driver),
    ]


def _forget_old(name: str, keep: Path, count: int = 2) -> None:
    """Delete archives of older contents, and the image names that go with them."""
    archives = sorted(_folder().glob(f"{name}-*.tar"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in archives[count:]:
        if old != keep:
            old.unlink(missing_ok=True)
            tag = old.stem.removeprefix(f"{name}-")
            succeeds([*_buildah(), "rmi", f"localhost/aurl-{name}:{tag}"])


# -- wheels -----------------------------------------------------------------------------------------------


def requirements(name: str, checkout: Path = CHECKOUT) -> str:
    """The lock file of an image's distribution, as pip is to read it."""
    locked = (checkout / distribution(name) / "requirements.lock").read_text()
    if VARIANTS.get(name) != "cuda":
        return locked
    # Equal to the letter: a build for the CPU has the same version with a suffix, which counts as newer.
    return locked.replace("\ntorch==", "\ntorch===")


def _wheels(name: str, checkout: Path, echo: Echo) -> Path:
    """Return a directory with every wheel that the build needs, downloaded through this machine's pip."""
    locked = requirements(name, checkout)
    project = tomllib.loads((checkout / distribution(name) / "pyproject.toml").read_text())
    tools = ["pip", *project.get("build-system", {}).get("requires", ["setuptools"])]
    if any(tool.startswith("setuptools") for tool in tools):
        tools.append("wheel")
    made_of = locked.encode() + repr((tools, sys.version_info[:2], platform.machine())).encode()
    digest = hashlib.sha256(made_of).hexdigest()[:12]
    home = cache_dir() / "wheels"
    target = home / f"{name}-{digest}"
    if target.is_dir():
        return target
    if sys.version_info[:2] != (3, 11):
        raise MachineError(
            f"the images hold Python 3.11, and this is {platform.python_version()}; run it with python3.11"
        )
    with lock(home / "wheels.lock", f"wheels of the {name}", echo):
        if target.is_dir():
            return target
        scratch = home / f"{name}-{digest}.part"  # kept when interrupted: pip goes on with what is there
        scratch.mkdir(exist_ok=True)
        wanted = scratch.with_suffix(".txt")
        wanted.write_text(locked)
        # `wheel`, not `download`: what exists as source only is built here, not in the image.
        run_long(
            [
                *(sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check"),
                *("--wheel-dir", scratch, "--find-links", scratch, "-r", wanted, *tools),
            ],
            f"wheels of the {name}: downloading",
            echo,
            log=_folder() / f"{name}-wheels.log",
        )
        wanted.unlink()
        scratch.replace(target)
        size = sum(file.stat().st_size for file in target.iterdir()) / 1e6
        echo(f"wheels of the {name}: {len(list(target.iterdir()))} files, {size:.0f} MB")
    return target


# -- the base image ---------------------------------------------------------------------------------------

_BASE_REVISION = "4"


def _base_hash() -> str:
    packages = (CHECKOUT / "images" / "base" / "packages").read_bytes()
    dated = str(provenance.timestamp()).encode()
    return hashlib.sha256(packages + _BASE_REVISION.encode() + dated + b"bookworm").hexdigest()[:12]


def _base(echo: Echo) -> str:
    """Return the reference of the offline base image; makes it from Debian's packages when it is missing."""
    reference = f"localhost/aurl-base:{_base_hash()}"
    if succeeds([*_buildah(), "inspect", "--type", "image", reference]):
        return reference
    lines = (CHECKOUT / "images" / "base" / "packages").read_text().splitlines()
    packages = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    rootfs = _folder() / "base.tar"
    settings = _folder() / "base-apt.conf"
    settings.write_text(_apt_acquire_settings())
    # Nothing is configured, as no package manager is to run in it: half the size of a minimal system.
    argv: list[str | Path] = [
        *("mmdebstrap", "--mode=root", "--variant=extract", f"--include={','.join(packages)}"),
        *("--format=tar", f"--aptopt={settings}"),
        "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
        *(f"--extract-hook={hook}" for hook in _BASE_HOOKS),
        "bookworm",
        rootfs,
        *_apt_sources(),
    ]
    run_long(
        argv,
        "base image: from Debian's packages",
        echo,
        log=_folder() / "base.log",
        env={"SOURCE_DATE_EPOCH": str(provenance.timestamp())},
    )
    container = run([*_buildah(), "from", "scratch"]).strip()
    try:
        run([*_buildah(), "add", container, rootfs, "/"])
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        run([*_buildah(), "config", "--env", f"PATH={path}", "--env", "LANG=C.UTF-8", container])
        dated = ("--timestamp", str(provenance.timestamp()))
        run([*_buildah(), "commit", "--quiet", *dated, container, reference])
    finally:
        succeeds([*_buildah(), "rm", container])
        rootfs.unlink(missing_ok=True)
    return reference


# Extracted packages are not configured; this is the little of it that matters here.
_BASE_HOOKS = (
    'echo "root:x:0:0:root:/root:/bin/sh" > "$1/etc/passwd"; echo "root:x:0:" > "$1/etc/group"',
    # What is in it, for scanners: extracted packages are not in dpkg's database by themselves.
    'for deb in "$1"/var/cache/apt/archives/*.deb; do dpkg-deb --field "$deb"; '
    'printf "Status: install ok unpacked\\n\\n"; done >> "$1/var/lib/dpkg/status"',
    # Documentation, and what only a package manager reads.
    'rm -rf "$1"/usr/share/doc "$1"/usr/share/man "$1"/usr/share/locale "$1"/var/lib/apt "$1"/var/cache/apt '
    '"$1"/usr/share/info "$1"/usr/share/lintian',
    'mkdir -p "$1/etc/ssl/certs" && { [ ! -d /usr/share/ca-certificates/mozilla ] || '
    'cat /usr/share/ca-certificates/mozilla/*.crt > "$1/etc/ssl/certs/ca-certificates.crt"; }',
)


def _apt_sources() -> list[Path]:
    etc = Path("/etc/apt")
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    known = [file for file in files if file.suffix in {".list", ".sources"} and file.is_file()]
    return [file for file in known if file.stat().st_size]


def _apt_acquire_settings() -> str:
    # mmdebstrap reads nothing of the machine's apt configuration, and a proxy may be the only way out.
    kept = ("Acquire::http", "Acquire::https", "Acquire::Retries")
    lines = run(["apt-config", "dump"]).splitlines()
    return "".join(f"{line}\n" for line in lines if line.startswith(kept))


# -- loading ----------------------------------------------------------------------------------------------


def _load(cluster: Cluster, image: Image, echo: Echo) -> Image:
    began = time.monotonic()
    if cluster.kind == "external":
        registry = os.environ.get("AURL_REGISTRY", "").rstrip("/")
        if not registry:
            raise ClusterError(
                f"images cannot be loaded straight into the cluster of {cluster.kubeconfig}: set "
                "AURL_REGISTRY to a registry that you can push to and the cluster can pull from (for example "
                "AURL_REGISTRY=registry.example.com/team)"
            )
        pushed = replace(image, reference=f"{registry}/{image.reference.rpartition('/')[2]}")
        run_long(
            [*_buildah(), "push", image.reference, f"docker://{pushed.reference}"],
            f"image {image.name}: pushing to {registry}",
            echo,
        )
        return pushed
    if cluster.has_image(image.reference):
        cluster.tag(image)  # `:dev` may stand for another content by now
        return image
    cluster.load(image)
    echo(f"image {image.name}: loaded in {time.monotonic() - began:.0f} s")
    return image
