"""The artifacts of a job on the volume: its checkpoints and sampled music, for people to look at.

Nothing here follows a symbolic link out of the job's directory, and no other file of it can be read.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import threading
import time
from pathlib import Path
from typing import Any, Final

from aurl_trainer.checkpoint.layout import CHECKPOINT_NAME, MANIFEST, MARKER, STATE_FILE
from aurl_trainer.checkpoint.state import evaluated_loss
from aurl_trainer.launcher.progress import timestamp
from aurl_trainer.metrics import finite

MAX_CHECKPOINTS: Final = 50
MAX_SAMPLES: Final = 16
MAX_BYTES: Final = 16 << 20
"""Size above which a file is not served."""

FRESH_SECONDS: Final = 3.0
"""Seconds for which a listing of the volume is served again."""

WAIT_SECONDS: Final = 2.0
"""Seconds that an answer waits for the volume before it returns the previous listing."""

TYPES: Final = {".png": "image/png", ".mid": "audio/midi"}

_SAMPLE = re.compile(r"sample-\d{1,6}\.(?:png|mid)", re.ASCII)
_FILE = re.compile(rf"(step-\d{{8,18}})/({_SAMPLE.pattern})", re.ASCII)


class Artifacts:
    """Lists the volume on request, one listing at a time: a dead volume blocks one thread only."""

    def __init__(self, job_dir: Path) -> None:
        self.job_dir = job_dir
        self._lock = threading.Lock()
        self._look: threading.Thread | None = None
        self._next_look = 0.0
        self._seen: dict[str, Any] = {"seenAt": None, "checkpoints": [], "samples": None}

    def contents(self) -> dict[str, Any]:
        """Return the newest listing, made at `seenAt`; an old one is renewed."""
        with self._lock:
            if self._look is None and time.monotonic() >= self._next_look:
                self._look = threading.Thread(target=self._look_now, name="artifacts", daemon=True)
                self._look.start()
            look = self._look
        if look is not None:
            look.join(WAIT_SECONDS)
        return self._seen

    def _look_now(self) -> None:
        try:
            checkpoints, samples = checkpoints_in(self.job_dir), newest_samples(self.job_dir)
            self._seen = {"seenAt": timestamp(time.time()), "checkpoints": checkpoints, "samples": samples}
        finally:
            with self._lock:
                self._look = None
                self._next_look = time.monotonic() + FRESH_SECONDS


def checkpoints_in(job_dir: Path) -> list[dict[str, Any]]:
    """Return the committed checkpoints, newest first."""
    found = {
        int(match.group(1)): entry
        for entry in _entries(job_dir / "checkpoints")
        if (match := CHECKPOINT_NAME.match(entry.name))
    }
    newest = [describe(found[step], step) for step in sorted(found, reverse=True)[:MAX_CHECKPOINTS]]
    return [checkpoint for checkpoint in newest if checkpoint is not None]


def describe(path: Path, step: int) -> dict[str, Any] | None:
    """Return the description of one checkpoint, or None if it is not committed.

    `health` is what the trainer recorded, `healthy` or (saved in a bad stretch) `doubtful`; or `damaged` if a
    file is missing or has the wrong size. Contents are not compared.
    """
    try:
        saved_at = (path / MARKER).stat().st_mtime
    except OSError:
        return None
    found: dict[str, Any] = {
        "step": step,
        "time": timestamp(saved_at),
        "bytes": None,
        "validationLoss": None,
        "health": "damaged",
    }
    try:
        files = _read_object(path / MANIFEST)["files"]
        found["bytes"] = sum(int(entry["bytes"]) for entry in files.values())
        whole = all((path / name).stat().st_size == entry["bytes"] for name, entry in files.items())
        state = _read_object(path / STATE_FILE)
        found["validationLoss"] = finite(evaluated_loss(state))
        if whole:
            found["health"] = "healthy" if state["progress"].get("healthy", True) else "doubtful"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # it stays "damaged"
    return found


def newest_samples(job_dir: Path) -> dict[str, Any] | None:
    """Return step and files of the newest sampled music, or None if there is none.

    `version` changes with every change of a file.
    """
    folders = sorted(
        (int(match.group(1)), entry)
        for entry in _entries(job_dir / "samples")
        if (match := CHECKPOINT_NAME.match(entry.name))
    )
    for step, folder in reversed(folders):
        names = sorted(
            (entry.name for entry in _entries(folder) if _SAMPLE.fullmatch(entry.name)),
            key=lambda name: (int(re.sub(r"\D", "", name)), name),
        )[: 2 * MAX_SAMPLES]
        if names:
            version = max((folder / name).lstat().st_mtime_ns for name in names)
            return {"step": step, "folder": folder.name, "files": names, "version": str(version)}
    return None


def read_sample(job_dir: Path, name: str) -> tuple[str, bytes] | None:
    """Return type and content of `<step>/<file>` under `samples/`; None for any other path."""
    match = _FILE.fullmatch(name)
    if match is None:
        return None
    content = _read_beneath(job_dir, ("samples", *match.groups()))
    return None if content is None else (TYPES[Path(name).suffix], content)


def _read_beneath(root: Path, parts: tuple[str, ...]) -> bytes | None:
    """Read a regular file below `root` without following links."""
    # Without O_NONBLOCK, opening a named pipe waits for a writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with contextlib.ExitStack() as opened, contextlib.suppress(OSError):
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, descriptor)
        for part in parts:
            descriptor = os.open(part, flags, dir_fd=descriptor)
            opened.callback(os.close, descriptor)
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES:
            with os.fdopen(os.dup(descriptor), "rb") as file:
                return file.read(MAX_BYTES)
    return None


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises OSError, ValueError or TypeError if there is none of a sane size."""
    with path.open("rb") as file:
        value = json.loads(file.read(MAX_BYTES))
    if not isinstance(value, dict):
        raise TypeError(f"{path} is not a JSON object")
    return value
