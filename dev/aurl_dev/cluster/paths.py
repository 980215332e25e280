"""Directories outside the checkout: the cache, the state, and locks for both."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Echo = Callable[[str], None]

CHECKOUT = Path(__file__).resolve().parents[3]
CHART = CHECKOUT / "charts/aurl-operator"


def cache_dir() -> Path:
    """Return the directory for files that are slow to build and safe to delete."""
    path = Path(os.environ.get("AURL_CACHE") or Path.home() / ".cache" / "aurl").resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


def state_dir() -> Path:
    """Return the directory for the state of running clusters."""
    path = Path(os.environ.get("AURL_STATE") or Path.home() / ".local" / "state" / "aurl").resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def lock(path: Path, what: str, echo: Echo) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the kernel releases it when the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:
        waited = time.monotonic()
        said = waited - 8  # short waits are not worth a line
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                now = time.monotonic()
                if now - said >= 10:
                    said = now
                    echo(f"{what}: waiting for another process ({now - waited:.0f} s)")
                time.sleep(0.2)
        yield
