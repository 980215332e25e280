"""Finds stragglers: ranks whose own compute time per step exceeds that of their peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from aurl_operator.api.status import Straggler
from aurl_operator.core.progress import ComputeTimes

#: A straggler stays marked until its slowdown falls below this share of the factor.
RELEASE_SHARE: Final = 0.9


def stragglers(
    times: ComputeTimes,
    factor: float,
    known: Sequence[Straggler],
    nodes: Mapping[int, str],
    ranks_per_node: int,
    now: datetime,
) -> list[Straggler]:
    """Return the ranks that take `factor` times the median of the others; `nodes` by pod index."""
    before = {straggler.rank: straggler for straggler in known}
    found, ordered = [], sorted(times.by_rank.values())
    for rank, seconds in times.by_rank.items():
        usual = median_without(ordered, seconds) if times.median is None else times.median
        slowdown = seconds / usual if usual > 0 else 1.0
        marked = before.get(rank)
        if slowdown < (factor * RELEASE_SHARE if marked else factor):
            continue
        since = marked.since if marked else now
        node = nodes.get(rank // ranks_per_node) or None
        found.append(Straggler(rank=rank, node=node, slowdown=round(slowdown, 1), since=since))
    return found


def median_without(ordered: Sequence[float], value: float) -> float:
    """Return the median of at least two ordered numbers from which one that equals `value` is removed."""

    def remaining(index: int) -> float:
        return ordered[index + (value <= ordered[index])]

    last = len(ordered) - 2
    return (remaining(last // 2) + remaining((last + 1) // 2)) / 2
