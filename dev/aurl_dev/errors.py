"""Errors of the development tools, each with the context needed to act on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class ClusterError(Exception):
    """Base of the errors that a command prints without a traceback."""


class MachineError(ClusterError):
    """The machine lacks something that this tool cannot provide (root, apt, a free address)."""


class CommandError(ClusterError):
    """A command failed; the message ends with the tail of its output."""

    def __init__(self, argv: Sequence[str], code: int, output: str) -> None:
        tail = "\n".join(output.strip().splitlines()[-25:])
        super().__init__(f"`{' '.join(argv)}` exited with {code}\n{tail}")


class StartError(ClusterError):
    """A component did not become healthy; the message ends with the tail of its log."""

    def __init__(self, component: str, reason: str, log: Path | None = None) -> None:
        message = f"{component}: {reason}"
        if log is not None and log.exists():
            lines = log.read_text(errors="replace").splitlines()[-20:]
            message += f"\n--- {log}\n" + "\n".join(lines)
        super().__init__(message)
