"""The inputs of an image: its source files, their hash, and a copy of them to build from."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from aurl_dev.cluster.paths import CHECKOUT

#: The build of PyTorch in each image. That for CUDA is several gigabytes larger; nothing here needs it.
VARIANTS = {"trainer": "cpu", "trainer-cuda": "cuda"}
_IGNORED = {"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", "build", "dist"}


def distribution(name: str) -> str:
    """Return the directory of the checkout that holds an image's distribution."""
    return name.partition("-")[0]


def inputs(name: str) -> tuple[str, ...]:
    """Return the inputs of an image as paths of the checkout."""
    return f"images/{distribution(name)}", "images/install.py", distribution(name)


def requirements(name: str) -> str:
    """Return the lock file of an image's distribution for pip."""
    locked = (CHECKOUT / distribution(name) / "requirements.lock").read_text()
    if VARIANTS.get(name) != "cuda":
        return locked
    # === compares literally: the CPU build has the same version with a suffix, which pip counts as newer.
    return locked.replace("\ntorch==", "\ntorch===")


def tree_hash(paths: Iterable[Path], relative_to: Path) -> str:
    """Return a hash of the names and contents of files, and of all files below directories."""
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


def copy_inputs(name: str, context: Path) -> None:
    """Copy exactly what was hashed: the checkout may change during a build, or be full of caches."""
    shutil.rmtree(context, ignore_errors=True)
    for path in inputs(name):
        for file in _files(CHECKOUT / path):
            copy = context / file.relative_to(CHECKOUT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
            # Layers are cached by content and mode; the dates of a checkout must not matter.
            os.utime(copy, (0, 0))
            copy.chmod(0o644)
