"""Finds stragglers: ranks whose own compute time per step exceeds that of their peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from statistics import median
from typing import Final

from aurl_operator.api.status import Straggler
from aurl_operator.api.trainer_contract import ProgressKey
from aurl_operator.core.parsers import number
from aurl_operator.core.progress import ProgressReport

#: A straggler stays marked until its slowdown falls below this share of the factor.
RELEASE_SHARE: Final = 0.9


def read_compute_times(report: ProgressReport | None, world_size: int) -> list[float] | None:
    """Return the compute seconds per step by rank, or None unless the report has them for every rank."""
    reported = report.body.get(ProgressKey.COMPUTE_SECONDS) if report else None
    if not isinstance(reported, list) or len(reported) != world_size or world_size < 2:
        return None
    compute_times = [number(value) for value in reported]
    sound = [seconds for seconds in compute_times if seconds is not None and seconds >= 0]
    return sound if len(sound) == world_size else None


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
