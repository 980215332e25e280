"""The base image, made offline from Debian packages."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from aurl_dev.cluster import provenance
from aurl_dev.cluster.aptsource import APT_ETC, source_files
from aurl_dev.cluster.buildah import buildah, folder
from aurl_dev.cluster.paths import CHECKOUT, Echo
from aurl_dev.cluster.shell import run, run_long, succeeds

_REVISION = "4"


def identity() -> str:
    """Return what names the base image in the hash of an image: $AURL_BASE_IMAGE, or a hash of its recipe."""
    return os.environ.get("AURL_BASE_IMAGE") or _hash()


def _hash() -> str:
    packages = (CHECKOUT / "images" / "base" / "packages").read_bytes()
    dated = str(provenance.timestamp()).encode()
    return hashlib.sha256(packages + _REVISION.encode() + dated + b"bookworm").hexdigest()[:12]


def ensure(echo: Echo) -> str:
    """Return the reference of the base image: $AURL_BASE_IMAGE, or ours, which is built if it is missing."""
    if given := os.environ.get("AURL_BASE_IMAGE"):
        return given
    reference = f"localhost/aurl-base:{_hash()}"
    if succeeds([*buildah(), "inspect", "--type", "image", reference]):
        return reference
    lines = (CHECKOUT / "images" / "base" / "packages").read_text().splitlines()
    packages = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    rootfs = folder() / "base.tar"
    settings = folder() / "base-apt.conf"
    settings.write_text(_apt_acquire_settings())
    # Packages are extracted but not configured, since no package manager runs in the image: half the size.
    argv: list[str | Path] = [
        *("mmdebstrap", "--mode=root", "--variant=extract", f"--include={','.join(packages)}"),
        *("--format=tar", f"--aptopt={settings}"),
        "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
        *(f"--extract-hook={hook}" for hook in _HOOKS),
        "bookworm",
        rootfs,
        *(file for file in source_files(APT_ETC) if file.stat().st_size),
    ]
    run_long(
        argv,
        "base image: building from Debian packages",
        echo,
        log=folder() / "base.log",
        env={"SOURCE_DATE_EPOCH": str(provenance.timestamp())},
    )
    container = run([*buildah(), "from", "scratch"]).strip()
    try:
        run([*buildah(), "add", container, rootfs, "/"])
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        run([*buildah(), "config", "--env", f"PATH={path}", "--env", "LANG=C.UTF-8", container])
        dated = ("--timestamp", str(provenance.timestamp()))
        run([*buildah(), "commit", "--quiet", *dated, container, reference])
    finally:
        succeeds([*buildah(), "rm", container])
        rootfs.unlink(missing_ok=True)
    return reference


# The parts of configuration that matter here.
_HOOKS = (
    'echo "root:x:0:0:root:/root:/bin/sh" > "$1/etc/passwd"; echo "root:x:0:" > "$1/etc/group"',
    # Scanners read dpkg's database, which extraction does not fill.
    'for deb in "$1"/var/cache/apt/archives/*.deb; do dpkg-deb --field "$deb"; '
    'printf "Status: install ok unpacked\\n\\n"; done >> "$1/var/lib/dpkg/status"',
    # Documentation, and what only a package manager reads.
    'rm -rf "$1"/usr/share/doc "$1"/usr/share/man "$1"/usr/share/locale "$1"/var/lib/apt "$1"/var/cache/apt '
    '"$1"/usr/share/info "$1"/usr/share/lintian',
    'mkdir -p "$1/etc/ssl/certs" && { [ ! -d /usr/share/ca-certificates/mozilla ] || '
    'cat /usr/share/ca-certificates/mozilla/*.crt > "$1/etc/ssl/certs/ca-certificates.crt"; }',
)


def _apt_acquire_settings() -> str:
    # mmdebstrap ignores the machine's apt configuration, but a proxy may be the only way out.
    kept = ("Acquire::http", "Acquire::https", "Acquire::Retries")
    lines = run(["apt-config", "dump"]).splitlines()
    return "".join(f"{line}\n" for line in lines if line.startswith(kept))
