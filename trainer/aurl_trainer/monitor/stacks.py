"""A rank's promise to show where it stands: at SIGUSR1 it writes the Python stacks of all its threads.

The signal is handled in C, so it also answers while the interpreter waits inside a collective.
"""

from __future__ import annotations

import faulthandler
import signal
from pathlib import Path
from typing import Final

STACK_SIGNAL: Final = signal.SIGUSR1


def stack_file(run_dir: Path, rank: int) -> Path:
    """Where rank `rank` writes its stacks; that the file exists says that it may be asked."""
    return run_dir / f"stack-{rank}.txt"


def answer_with_stacks(run_dir: Path | None, rank: int) -> None:
    """Have this process write its stacks at every SIGUSR1 from now on; without a run directory do nothing."""
    if run_dir is None:
        return
    # faulthandler keeps the file open for as long as the process lives.
    file = stack_file(run_dir, rank).open("a", encoding="utf-8")
    faulthandler.register(STACK_SIGNAL, file=file, all_threads=True, chain=False)
