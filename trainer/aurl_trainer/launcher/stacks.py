"""Saves the stacks of ranks that hang to the volume, before they are killed."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from aurl_trainer.launcher.processes import is_alive, signal_all
from aurl_trainer.monitor.snapshot import RankSnapshot
from aurl_trainer.monitor.stacks import STACK_SIGNAL, stack_file

log = logging.getLogger(__name__)

ANSWER_SECONDS = 3.0
"""Time that ranks have to write their stacks."""

WRITE_SECONDS = 10.0
"""Time that the volume has; a volume that hangs may be the cause."""


def save_stacks(run_dir: Path, ranks: Mapping[int, RankSnapshot], target: Path, reason: str) -> bool:
    """Ask the ranks for their stacks and write `rank-<rank>.txt` for each into `target`.

    Returns True if all of them were written. Never raises, and takes seconds at most.
    """
    texts = {
        f"rank-{rank}.txt": _describe(rank, ranks[rank], text, reason)
        for rank, text in _collect(run_dir, ranks).items()
    }
    written: list[str] = []
    # A daemon: a write to a dead volume never returns.
    writer = threading.Thread(target=_write, args=(target, texts, written), daemon=True)
    writer.start()
    writer.join(WRITE_SECONDS)
    complete = len(written) == len(texts)
    if complete:
        log.warning("launcher: saved the stacks of the ranks", extra={"path": str(target)})
    else:
        log.error("launcher: the stacks of the ranks could not be saved", extra={"path": str(target)})
    return complete


def _collect(run_dir: Path, ranks: Mapping[int, RankSnapshot]) -> dict[int, str]:
    """Return the stacks by rank; an empty text for a rank that did not answer."""
    files = {rank: stack_file(run_dir, rank) for rank in ranks}
    before = {rank: _size(file) for rank, file in files.items()}
    # The signal would kill a rank that has not installed its handler, which makes the file.
    asked = [rank for rank in ranks if before[rank] is not None and is_alive(ranks[rank].pid)]
    signal_all((ranks[rank].pid for rank in asked), STACK_SIGNAL)
    deadline = time.monotonic() + ANSWER_SECONDS
    sizes = before
    while time.monotonic() < deadline:
        time.sleep(0.1)
        latest = {rank: _size(files[rank]) for rank in files}
        if latest == sizes and all(latest[rank] != before[rank] for rank in asked):
            break  # all have answered, and none has written more since
        sizes = latest
    return {rank: _text(files[rank], before[rank] or 0) for rank in files}


def _size(file: Path) -> int | None:
    with contextlib.suppress(OSError):
        return file.stat().st_size
    return None


def _text(file: Path, start: int) -> str:
    with contextlib.suppress(OSError):
        return file.read_bytes()[start:].decode(errors="replace")
    return ""


def _describe(rank: int, snapshot: RankSnapshot, stacks: str, reason: str) -> str:
    lines = [
        f"rank {rank}, process {snapshot.pid}: {reason}",
        f"last report: state {snapshot.state}, step {snapshot.step}, phase {snapshot.phase}",
        f"process state: {_kernel_state(snapshot.pid)}",
        "",
        stacks or "The process did not write its stacks.",
    ]
    return "\n".join(lines)


def _kernel_state(pid: int) -> str:
    """Return the kernel's state of a process: a rank that waits for a dead volume answers no signal."""
    process = Path("/proc") / str(pid)
    with contextlib.suppress(OSError, StopIteration):
        lines = (process / "status").read_text().splitlines()
        state = next(line for line in lines if line.startswith("State:")).partition(":")[2].strip()
        waits_in = ""
        with contextlib.suppress(OSError):
            waits_in = (process / "wchan").read_text().strip()
        return f"{state}, waits in {waits_in}" if waits_in not in ("", "0") else state
    return "gone"


def _write(target: Path, texts: Mapping[str, str], written: list[str]) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (target / name).write_text(text, encoding="utf-8")
            written.append(name)
    except OSError as error:
        log.error("launcher: stacks cannot be written", extra={"reason": str(error)})
