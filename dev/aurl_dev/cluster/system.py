"""Debian packages: finds out what is missing and installs only that."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from aurl_dev.cluster.paths import Echo, cache_dir, lock
from aurl_dev.cluster.shell import run, run_long
from aurl_dev.errors import CommandError, MachineError

APT = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]
QUIET = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "NEEDRESTART_MODE": "l"}

# A program that proves a package's purpose is served, whoever installed it. Packages that are not here
# are asked of dpkg.
PROGRAM_OF: Mapping[str, str] = {
    "buildah": "buildah",
    "chromium": "chromium",
    "chromium-driver": "chromedriver",
    "conntrack": "conntrack",
    "containerd": "containerd",
    "etcd-server": "etcd",
    "ethtool": "ethtool",
    "gcc": "gcc",
    "iproute2": "ip",
    "iptables": "iptables",
    "kubernetes-client": "kubectl",
    "mmdebstrap": "mmdebstrap",
    "openssl": "openssl",
    "runc": "runc",
    "socat": "socat",
}

CONTROL_PLANE = ("etcd-server", "openssl")
NODE = (
    "containerd",
    "runc",
    "containernetworking-plugins",
    "conntrack",
    "ethtool",
    "iproute2",
    "iptables",
    "socat",
)
KUBECTL = ("kubernetes-client",)
IMAGE_BUILD = ("buildah", "runc", "mmdebstrap", "gcc", "libc6-dev")
GO_BUILD = ("golang-1.19-go", "golang-github-modern-go-reflect2-dev", "dpkg-dev")


def require_root(purpose: str) -> None:
    """Raise unless this process is root."""
    if os.geteuid() != 0:
        raise MachineError(
            f"{purpose} needs root (network namespaces, cgroups, mounts); run it with sudo, "
            "or set KUBECONFIG to a cluster of yours"
        )


def present(package: str) -> bool:
    """Say whether a package, or the program it is wanted for, is there."""
    program = PROGRAM_OF.get(package)
    if program is not None and _which(program) is not None:
        return True
    try:
        status = run(["dpkg-query", "-W", "-f", "${db:Status-Status}", package])
    except (CommandError, FileNotFoundError):
        return False
    return status.strip() == "installed"


def missing(packages: Sequence[str]) -> list[str]:
    """Return those of `packages` that are not there, in order, each once."""
    return [package for package in dict.fromkeys(packages) if not present(package)]


def ensure(packages: Sequence[str], echo: Echo) -> None:
    """Install what is missing of `packages`; updates apt's lists only when it has to."""
    wanted = missing(packages)
    if not wanted:
        return
    if shutil.which("apt-get") is None:
        raise MachineError(f"missing {', '.join(wanted)}, and there is no apt-get to install them with")
    require_root(f"installing {', '.join(wanted)}")
    with lock(cache_dir() / "apt.lock", "Debian packages", echo):
        wanted = missing(packages)
        if not wanted:
            return
        echo(f"Debian packages: installing {' '.join(wanted)}")
        install = [*APT, "install", "-y", "--no-install-recommends", *wanted]
        try:
            run_long(install, "Debian packages", echo, env=QUIET)
        except CommandError:
            # Lists that are empty or older than the archive; a failure after an update is a real one.
            run_long([*APT, "update"], "Debian package lists", echo, env=QUIET)
            run_long(install, "Debian packages", echo, env=QUIET)


def _which(program: str) -> str | None:
    # Daemons live in sbin, which is not on every PATH.
    search = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin:/usr/local/sbin"
    return shutil.which(program, path=search)


def program(name: str) -> Path:
    """Return the full path of a program, sbin included."""
    found = _which(name)
    if found is None:
        raise MachineError(f"the program {name} is not on this machine")
    return Path(found)
