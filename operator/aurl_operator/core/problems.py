"""A problem of a job's specification: where, and what is wrong there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SHOWN = 3


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong; `path` begins at the job, e.g. `spec.training.steps`."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def summary(problems: Iterable[Problem]) -> str:
    """The first problems in one line, with the number of those left out."""
    found = list(problems)
    line = "; ".join(str(problem) for problem in found[:SHOWN])
    return line if len(found) <= SHOWN else f"{line}; and {len(found) - SHOWN} more"
