"""A forked rank: set its environment and log file, break something on demand, train."""

from __future__ import annotations

import importlib
import os
import sys


def run_rank(environment: dict[str, str], log: str, hook: str) -> None:
    """Become one rank of a job."""
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    # The server's streams are not ours: a rank has its own.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    if hook:
        module, _, function = hook.partition(":")
        getattr(importlib.import_module(module), function)()
    from aurl_trainer.train import run_rank

    run_rank()
