"""Download the wheels that an image build installs, once per lock file."""

from __future__ import annotations

import hashlib
import platform
import sys
import tomllib
from pathlib import Path

from aurl_dev.cluster.buildah import folder
from aurl_dev.cluster.image_sources import distribution, requirements
from aurl_dev.cluster.paths import CHECKOUT, Echo, cache_dir, lock
from aurl_dev.cluster.shell import run_long
from aurl_dev.errors import MachineError


def ensure(name: str, echo: Echo) -> Path:
    """Return a directory with every wheel that the build needs; downloads them with this machine's pip."""
    locked = requirements(name)
    project = tomllib.loads((CHECKOUT / distribution(name) / "pyproject.toml").read_text())
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
            f"the images need wheels for Python 3.11, not {platform.python_version()}; run it with python3.11"
        )
    with lock(home / "wheels.lock", f"wheels of the {name}", echo):
        if target.is_dir():
            return target
        scratch = home / f"{name}-{digest}.part"  # kept if interrupted: pip reuses what is there
        scratch.mkdir(exist_ok=True)
        wanted = scratch.with_suffix(".txt")
        wanted.write_text(locked)
        # `wheel`, not `download`: packages without a wheel are built here, not in the image.
        run_long(
            [
                *(sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check"),
                *("--wheel-dir", scratch, "--find-links", scratch, "-r", wanted, *tools),
            ],
            f"wheels of the {name}: downloading",
            echo,
            log=folder() / f"{name}-wheels.log",
        )
        wanted.unlink()
        scratch.replace(target)
        size = sum(file.stat().st_size for file in target.iterdir()) / 1e6
        echo(f"wheels of the {name}: {len(list(target.iterdir()))} files, {size:.0f} MB")
    return target
