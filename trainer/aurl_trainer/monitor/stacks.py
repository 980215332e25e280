"""Stack dumps of a rank: at SIGUSR1 it writes the Python stacks of all its threads.

The signal is handled in C, so a rank answers even while the interpreter waits inside a collective.
"""

from __future__ import annotations

import faulthandler
import signal
from pathlib import Path
from typing import Final

STACK_SIGNAL: Final = signal.SIGUSR1


def stack_file(run_dir: Path, rank: int) -> Path:
    """Return the file for the stacks of a rank; it exists once the rank handles the signal."""
    return run_dir / f"stack-{rank}.txt"


def answer_with_stacks(run_dir: Path | None, rank: int) -> None:
    """Make this process write its stacks at every SIGUSR1; a no-op without a run directory."""
    if run_dir is None:
        return
    # faulthandler keeps the file open while the process lives.
    file = stack_file(run_dir, rank).open("a", encoding="utf-8")
    faulthandler.register(STACK_SIGNAL, file=file, all_threads=True, chain=False)
