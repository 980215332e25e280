"""Install the Debian packages that are missing."""

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

# The program that a package is wanted for; if it is found, the package is not installed. For packages not
# listed here, dpkg decides.
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
            "or set KUBECONFIG to an existing cluster"
        )


def present(package: str) -> bool:
    """Return whether a package, or the program it is wanted for, is installed."""
    program = PROGRAM_OF.get(package)
    if program is not None and _which(program) is not None:
        return True
    try:
        status = run(["dpkg-query", "-W", "-f", "${db:Status-Status}", package])
    except (CommandError, FileNotFoundError):
        return False
    return status.strip() == "installed"


def missing(packages: Sequence[str]) -> list[str]:
    """Return the packages that are not installed, in order, each once."""
    return [package for package in dict.fromkeys(packages) if not present(package)]


def ensure(packages: Sequence[str], echo: Echo) -> None:
    """Install the packages that are missing; updates apt's lists only if necessary."""
    wanted = missing(packages)
    if not wanted:
        return
    if shutil.which("apt-get") is None:
        raise MachineError(
            f"cannot install {', '.join(wanted)}: this machine has no apt-get; install them by other means"
        )
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
            # The lists may be empty or outdated; a failure after an update is a real one.
            run_long([*APT, "update"], "Debian package lists", echo, env=QUIET)
            run_long(install, "Debian packages", echo, env=QUIET)


def _which(program: str) -> str | None:
    # Daemons are in sbin, which is not on every PATH.
    search = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin:/usr/local/sbin"
    return shutil.which(program, path=search)


def program(name: str) -> Path:
    """Return the full path of a program, sbin included."""
    found = _which(name)
    if found is None:
        raise MachineError(f"the program {name} is not installed")
    return Path(found)
