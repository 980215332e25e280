"""Run commands quietly, or slow ones with a line of progress every few seconds."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from aurl_dev.cluster.paths import Echo
from aurl_dev.errors import CommandError

TICK_SECONDS = 8.0


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout: float | None = None,
) -> str:
    """Run a command and return its standard output; raise `CommandError` if it fails."""
    words = [str(word) for word in argv]
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, **env} if env else None,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        raise CommandError(words, done.returncode, done.stdout + done.stderr)
    return done.stdout


def succeeds(argv: Sequence[str | Path], timeout: float = 30) -> bool:
    """Return whether a command exits with 0; False if the program is missing or hangs."""
    try:
        run(argv, timeout=timeout)
    except (CommandError, OSError, subprocess.TimeoutExpired):
        return False
    return True


def run_long(
    argv: Sequence[str | Path],
    what: str,
    echo: Echo,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    fraction: Callable[[int], float] | None = None,
    log: Path | None = None,
) -> str:
    """Run a slow command, report every few seconds how long it has run, and return its output.

    `fraction` maps the number of output lines so far to a share of the work, for a percentage.
    The output goes to `log`, which stays, or to a temporary file.
    """
    words = [str(word) for word in argv]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="aurl-") as scratch:
        sink = log or Path(scratch) / "output"
        sink.parent.mkdir(parents=True, exist_ok=True)
        with sink.open("wb") as out:
            process = subprocess.Popen(
                words,
                cwd=cwd,
                env={**os.environ, **env} if env else None,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
            done = threading.Event()
            ticker = threading.Thread(
                target=_tick, args=(done, sink, what, echo, began, fraction), daemon=True
            )
            ticker.start()
            try:
                code = process.wait()
            except BaseException:
                process.terminate()
                process.wait()
                raise
            finally:
                done.set()
                ticker.join()
        text = sink.read_text(errors="replace")
    if code:
        raise CommandError(words, code, text)
    return text


def _tick(
    done: threading.Event,
    sink: Path,
    what: str,
    echo: Echo,
    began: float,
    fraction: Callable[[int], float] | None,
) -> None:
    while not done.wait(TICK_SECONDS):
        percent = ""
        if fraction is not None:
            lines = sink.read_bytes().count(b"\n")
            percent = f", {100 * min(max(fraction(lines), 0.0), 0.99):.0f} %"
        echo(f"{what}: {time.monotonic() - began:.0f} s{percent}")
