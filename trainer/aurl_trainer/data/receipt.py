"""Proof that a dataset was made from a source, so that restarts need not read either in full.

`dataset/<fingerprint>/receipt.json` holds a hash over name, size and modification time of all files of the
source, and size and modification time of the files of the dataset. If all are as they were, the content is
taken for unchanged; otherwise it is hashed again. A corpus of hundreds of gigabytes on NFS takes longer to
hash than ranks wait for one another.
"""

from __future__ import annotations

import json
import logging
import uuid
from pathlib import Path
from typing import Any, Final

from aurl_trainer.data.errors import DatasetError
from aurl_trainer.data.shards import MANIFEST, MARKER, Dataset

log = logging.getLogger("aurl_trainer.data")

RECEIPT: Final = "receipt.json"


def find_unchanged(root: Path, listing: str) -> Dataset | None:
    """Return the dataset below `root` that was made from this listing and is unchanged, if there is one."""
    for path in sorted(root.glob(f"*/{RECEIPT}")):
        try:
            dataset = Dataset.open(path.parent)
            if json.loads(path.read_text()) == _content(dataset, listing):
                return dataset
        except (OSError, ValueError, DatasetError):
            continue
    return None


def write_receipt(dataset: Dataset, listing: str) -> None:
    """Write the receipt of a dataset that was just verified or made. Without it, a restart takes longer."""
    pending = dataset.path / f".{RECEIPT}-{uuid.uuid4().hex[:8]}"
    try:
        pending.write_text(json.dumps(_content(dataset, listing)))
        pending.replace(dataset.path / RECEIPT)
    except OSError as error:
        log.warning("the receipt of the dataset cannot be written", extra={"reason": str(error)})


def stamp(path: Path) -> str:
    """Return size in bytes and modification time in nanoseconds of a file. Raises OSError."""
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _content(dataset: Dataset, listing: str) -> dict[str, Any]:
    names = [MARKER, MANIFEST, *dataset.manifest["files"]]
    return {"listing": listing, "files": {name: stamp(dataset.path / name) for name in names}}
