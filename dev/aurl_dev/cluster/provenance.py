"""The origin of an image as reproducible labels: the commit that last changed its inputs."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime

from aurl_dev.cluster.paths import CHECKOUT

#: Date of all files and of the image, unless $SOURCE_DATE_EPOCH is set: 2000-01-01. The date of a commit
#: would change the digest of unchanged layers, and zip files cannot hold dates before 1980.
_EPOCH = 946684800


def timestamp() -> int:
    """Return the date of everything in an image, in seconds since 1970."""
    return int(os.environ.get("SOURCE_DATE_EPOCH", _EPOCH))


def labels(inputs: Sequence[str], version: str) -> dict[str, str]:
    """Return build arguments for the labels of an image built from `inputs`, paths of the checkout.

    The same content at another commit has the same labels and digest. Without git the values are `unknown`.
    """
    revision, _, seconds = _git("log", "-1", "--format=%H %ct", "--", *inputs).partition(" ")
    if revision and _git("status", "--porcelain", "--", *inputs):
        revision += "-dirty"
    when = datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else ""
    found = {"VERSION": version, "REVISION": revision, "CREATED": when, "SOURCE": _source()}
    return {name: value or "unknown" for name, value in found.items()}


def _source() -> str:
    """Return the public URL of the repository without credentials, or an empty string."""
    url = _git("config", "--get", "remote.origin.url")
    return re.sub(r"^https://[^/@]*@", "https://", url) if url.startswith("https://") else ""


def version(name: str) -> str:
    """Return the version of the distribution in an image."""
    text = (CHECKOUT / name / f"aurl_{name}" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    return found[1] if found else "0"


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(CHECKOUT), *words], capture_output=True, text=True, timeout=30, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
