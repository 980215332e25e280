"""Files that survive a crash: contents are hashed while written, and flushed to the disk."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

CHUNK = 16 * 1024 * 1024


def write_durably(path: Path, parts: Iterable[bytes | memoryview]) -> str:
    """Write `parts` to a new file, flush it to the disk and return the sha256 of its content as hex.

    Hashing and writing leave Python's lock, so a background thread hardly disturbs the training loop.
    """
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        for part in parts:
            view = memoryview(part).cast("B")
            for start in range(0, len(view), CHUNK):
                chunk = view[start : start + CHUNK]
                digest.update(chunk)
                while chunk:
                    chunk = chunk[os.write(descriptor, chunk) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return digest.hexdigest()


def write_marker(path: Path, digest: str) -> None:
    """Create a marker file that holds `digest`. At no moment does it exist with other content.

    On OSError there may be a marker or none, but never a part of one.
    """
    pending = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    write_durably(pending, [f"{digest}\n".encode()])
    pending.rename(path)
    sync_directory(path.parent)


def write_files(directory: Path, contents: Mapping[str, Iterable[bytes | memoryview]]) -> dict[str, Any]:
    """Write files durably and return the sha256 and size in bytes of each, by name, for a manifest."""
    return {
        name: {"sha256": write_durably(directory / name, parts), "bytes": (directory / name).stat().st_size}
        for name, parts in contents.items()
    }


def first_difference(directory: Path, files: Mapping[str, Any]) -> str | None:
    """Return a clause on the first file that differs from the result of `write_files`; None if all match.

    Raises OSError if a file cannot be read.
    """
    for name, entry in files.items():
        size = (directory / name).stat().st_size
        if size != entry["bytes"]:
            return f"{name} has {size} bytes instead of {entry['bytes']}"
        if file_sha256(directory / name) != entry["sha256"]:
            return f"{name} does not match its checksum"
    return None


def json_bytes(value: Any) -> bytes:
    """Return `value` as JSON that a person can read and that is the same for equal values."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def sync_directory(path: Path) -> None:
    """Flush the names in a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_tree(path: Path) -> None:
    """Delete a directory that no reader counts any more."""
    shutil.rmtree(path, ignore_errors=True)
