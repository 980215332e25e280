"""What lies in the job's directory on the volume for people to look at: checkpoints and sampled music.

Nothing here follows a symbolic link out of the directory, and nothing else of it can be read.
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
"""How long a look at the volume is shown before the next one."""

WAIT_SECONDS: Final = 2.0
"""How long an answer waits for the volume; after that it tells what was seen before."""

TYPES: Final = {".png": "image/png", ".mid": "audio/midi"}

_SAMPLE = re.compile(r"sample-\d{1,6}\.(?:png|mid)", re.ASCII)
_FILE = re.compile(rf"(step-\d{{8,18}})/({_SAMPLE.pattern})", re.ASCII)


class Artifacts:
    """Looks at the volume when somebody asks, one look at a time: a dead volume holds up one thread only."""

    def __init__(self, job_dir: Path) -> None:
        self.job_dir = job_dir
        self._lock = threading.Lock()
        self._look: threading.Thread | None = None
        self._next_look = 0.0
        self._seen: dict[str, Any] = {"seenAt": None, "checkpoints": [], "samples": None}

    def contents(self) -> dict[str, Any]:
        """Return what was seen last, `seenAt` when; a new look is begun when that is old."""
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
    """Return the committed checkpoints, the newest first."""
    found = {
        int(match.group(1)): entry
        for entry in _entries(job_dir / "checkpoints")
        if (match := CHECKPOINT_NAME.match(entry.name))
    }
    newest = [describe(found[step], step) for step in sorted(found, reverse=True)[:MAX_CHECKPOINTS]]
    return [checkpoint for checkpoint in newest if checkpoint is not None]


def describe(path: Path, step: int) -> dict[str, Any] | None:
    """Tell about one checkpoint; None when it is not committed.

    `health` is what the trainer noted: `healthy`, or `doubtful` when it was saved in a bad stretch. It is
    `damaged` when a file is missing or has another size than it should; contents are not compared.
    """
    try:
        saved_at = (path / MARKER).stat().st_mtime
    except OSError:
        return None
    told: dict[str, Any] = {
        "step": step,
        "time": timestamp(saved_at),
        "bytes": None,
        "validationLoss": None,
        "health": "damaged",
    }
    try:
        files = _read_object(path / MANIFEST)["files"]
        told["bytes"] = sum(int(entry["bytes"]) for entry in files.values())
        whole = all((path / name).stat().st_size == entry["bytes"] for name, entry in files.items())
        state = _read_object(path / STATE_FILE)
        told["validationLoss"] = finite(evaluated_loss(state))
        if whole:
            told["health"] = "healthy" if state["progress"].get("healthy", True) else "doubtful"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # a damaged checkpoint is what it then is
    return told


def newest_samples(job_dir: Path) -> dict[str, Any] | None:
    """Return the step and the files of the newest music that was sampled; None without any.

    `version` changes whenever a file does.
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
    """Return type and content of `<step>/<file>` under `samples/`; None for everything else there is."""
    match = _FILE.fullmatch(name)
    if match is None:
        return None
    content = _read_beneath(job_dir, ("samples", *match.groups()))
    return None if content is None else (TYPES[Path(name).suffix], content)


def _read_beneath(root: Path, parts: tuple[str, ...]) -> bytes | None:
    """Read a regular file below `root`, following no link on the way."""
    # Without O_NONBLOCK a named pipe would wait for a writer.
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
    """Read a JSON object; OSError, ValueError or TypeError when there is none of a sane size."""
    with path.open("rb") as file:
        value = json.loads(file.read(MAX_BYTES))
    if not isinstance(value, dict):
        raise TypeError(f"{path} holds no object")
    return value
