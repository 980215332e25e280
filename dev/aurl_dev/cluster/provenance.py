"""Where an image comes from: the commit that last changed what goes into it, as labels that do not vary."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

#: Date of all files and of the image itself, unless $SOURCE_DATE_EPOCH says otherwise: 2000-01-01. That of a
#: commit would give layers that did not change a new digest; zip files know nothing before 1980.
_EPOCH = 946684800


def timestamp() -> int:
    """Seconds since 1970 that everything in an image is dated to."""
    return int(os.environ.get("SOURCE_DATE_EPOCH", _EPOCH))


def labels(checkout: Path, inputs: Sequence[str], version: str) -> dict[str, str]:
    """Build arguments for the labels of an image that is made of some paths of a checkout.

    The same content at another commit has the same labels, so the same digest. Without git: `unknown`.
    """
    revision, _, seconds = _git(checkout, "log", "-1", "--format=%H %ct", "--", *inputs).partition(" ")
    if revision and _git(checkout, "status", "--porcelain", "--", *inputs):
        revision += "-dirty"
    when = datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else ""
    found = {"VERSION": version, "REVISION": revision, "CREATED": when, "SOURCE": source(checkout)}
    return {name: value or "unknown" for name, value in found.items()}


def source(checkout: Path) -> str:
    """The public address of the repository, without credentials; empty where there is none."""
    url = _git(checkout, "config", "--get", "remote.origin.url")
    return re.sub(r"^https://[^/@]*@", "https://", url) if url.startswith("https://") else ""


def version(checkout: Path, name: str) -> str:
    """The version of the distribution that an image holds."""
    text = (checkout / name / f"aurl_{name}" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    return found[1] if found else "0"


def _git(checkout: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(checkout), *words], capture_output=True, text=True, timeout=30, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
