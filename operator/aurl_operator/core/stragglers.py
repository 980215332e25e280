"""Finds stragglers: ranks whose own compute time per step exceeds that of their peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from statistics import median
from typing import Final

from aurl_operator.api.status import Straggler

#: A straggler stays marked until its slowdown falls below this share of the factor.
RELEASE_SHARE: Final = 0.9


def stragglers(
    compute_times: Sequence[float],
    factor: float,
    known: Sequence[Straggler],
    nodes: Mapping[int, str],
    ranks_per_node: int,
    now: datetime,
) -> list[Straggler]:
    """Return the ranks that take `factor` times the median of the others; `nodes` by pod index."""
    before = {straggler.rank: straggler for straggler in known}
    found = []
    for rank, seconds in enumerate(compute_times):
        usual = median([*compute_times[:rank], *compute_times[rank + 1 :]])
        slowdown = seconds / usual if usual > 0 else 1.0
        marked = before.get(rank)
        if slowdown < (factor * RELEASE_SHARE if marked else factor):
            continue
        since = marked.since if marked else now
        node = nodes.get(rank // ranks_per_node) or None
        found.append(Straggler(rank=rank, node=node, slowdown=round(slowdown, 1), since=since))
    return found
