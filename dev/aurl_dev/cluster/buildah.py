"""buildah with its own storage, and the directory of finished images, both in the cache."""

from __future__ import annotations

from pathlib import Path

from aurl_dev.cluster import system
from aurl_dev.cluster.paths import cache_dir
from aurl_dev.cluster.shell import run


def folder() -> Path:
    """Return the directory of image archives and build logs."""
    home = cache_dir() / "images"
    home.mkdir(parents=True, exist_ok=True)
    return home


def buildah() -> list[str | Path]:
    """Return the start of a buildah command.

    It does not use the system's storage, which others may use; this one can be deleted with the cache.
    """
    home = cache_dir() / "buildah"
    home.mkdir(parents=True, exist_ok=True)
    on_overlay = run(["stat", "-f", "-c", "%T", home]).strip() == "overlayfs"
    driver = "vfs" if on_overlay else "overlay"  # overlay cannot be stacked on overlay
    return [
        system.program("buildah"),
        *("--root", home / "root", "--runroot", home / "run", "--storage-driver", driver),
    ]
