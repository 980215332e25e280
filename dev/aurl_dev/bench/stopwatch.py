"""Wall-clock and processor time of a function; the latter hardly depends on other processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Seconds:
    """The minimum over several runs, for each figure separately."""

    wall: float
    cpu: float


def best_of(run: Callable[[], T], repeats: int) -> tuple[T, Seconds]:
    """Run once to warm up, then `repeats` times; return the last result and the best times."""
    answer = run()
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        answer = run()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return answer, Seconds(min(walls), min(cpus))
