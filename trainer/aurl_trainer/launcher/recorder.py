"""Keeps the job's history on the volume: reads it once and writes it from time to time.

A volume may hang while the launcher must not: every access happens in a thread of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aurl_trainer.launcher.history import History, restored
from aurl_trainer.launcher.outcome import Outcome
from aurl_trainer.launcher.server import json_body
from aurl_trainer.monitor.snapshot import RankSnapshot, rank_file, read_json, read_snapshot, write_json

log = logging.getLogger(__name__)

HISTORY_FILE = "history.json"

WRITE_INTERVAL = 10.0
"""Seconds between two writes of a changing history."""

LAST_WRITE_SECONDS = 2.0
"""Time that the end of the launch waits for the last write."""


class Recorder:
    """Records what rank 0 reports, from the moment that the stored history was read."""

    def __init__(self, run_dir: Path, job_dir: Path, attempt: int) -> None:
        self._snapshot = rank_file(run_dir, 0)
        self._file = job_dir / HISTORY_FILE
        self._attempt = attempt
        self._history: History | None = None
        self._lock = threading.Lock()
        self._looked_at: int | None = None
        self._written: int | None = None
        self._next_write = 0.0
        self._saved_step: int | None = None
        self._body = (-1, b"")
        self._volume = _in_background(self._load)

    def look(self) -> None:
        """Record the snapshot of rank 0 if it has changed."""
        try:
            changed = self._snapshot.stat().st_mtime_ns
        except OSError:
            return
        with self._lock:
            if self._history is None or changed == self._looked_at:
                return
            self._looked_at = changed
            rank = read_snapshot(self._snapshot, RankSnapshot)
            if rank is not None:
                self._history.take(rank)
                saved = rank.job.last_checkpoint if rank.job is not None else None
                if saved is not None and saved.step != self._saved_step:
                    # Write soon: another attempt continues from there.
                    self._saved_step, self._next_write = saved.step, 0.0
        if time.monotonic() >= self._next_write and not self._volume.is_alive():
            self._next_write = time.monotonic() + WRITE_INTERVAL
            self._volume = _in_background(self._write)

    def finish(self, outcome: Outcome, progress: dict[str, Any]) -> None:
        """Record the last values and the end of the attempt, and write them if the volume permits."""
        deadline = time.monotonic() + LAST_WRITE_SECONDS
        self._next_write = float("inf")
        self.look()
        with self._lock:
            if self._history is not None:
                self._history.end(
                    outcome.state, outcome.failure_class, outcome.message, time.time(), progress
                )
        self._volume.join(LAST_WRITE_SECONDS)
        if not self._volume.is_alive():
            self._volume = _in_background(self._write)
            self._volume.join(max(0.0, deadline - time.monotonic()))

    def body(self) -> bytes:
        """Return the answer of `/history`."""
        with self._lock:
            history = self._history if self._history is not None else History()
            if self._body[0] != history.version:
                self._body = (history.version, json_body(history.document()))
            return self._body[1]

    def _load(self) -> None:
        history = restored(read_json(self._file))
        history.begin(self._attempt, time.time())
        with self._lock:
            self._history = history

    def _write(self) -> None:
        with self._lock:
            if self._history is None or self._history.version == self._written:
                return
            version, document = self._history.version, self._history.document()
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._file, document)
            self._written = version
        except OSError as error:
            log.warning("launcher: cannot write the history", extra={"reason": str(error)})


def _in_background(work: Callable[[], Any]) -> threading.Thread:
    """Run `work` in a daemon thread: a write to a dead volume never returns."""
    thread = threading.Thread(target=work, name="history", daemon=True)
    thread.start()
    return thread
