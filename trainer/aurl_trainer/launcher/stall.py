"""Measures how long the ranks of this node have made no step. Pure; times are monotonic seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aurl_trainer.monitor.snapshot import RankSnapshot

WORKING = frozenset({"Starting", "Training"})
"""States in which a rank must make steps; the last save and sampling have no deadline."""

UNFINISHED = WORKING | {"Saving"}
"""States in which a rank may hang after it was asked to stop."""


@dataclass(frozen=True)
class Stall:
    """Ranks without a new step for `seconds` since `step`; `rank` is the one behind all others, if any."""

    seconds: float
    step: int
    rank: int | None

    @property
    def sentence(self) -> str:
        """Description for people."""
        where = f"at step {self.step}" if self.step else "before the first step"
        who = f", rank {self.rank} is behind all others" if self.rank is not None else ""
        return f"No new step for {self.seconds:.0f} s; the ranks hang {where}{who}."


class StallWatch:
    """Remembers when each rank last made a step; needs no wall clock, which may be set at any time."""

    def __init__(self) -> None:
        self._moved: dict[int, tuple[tuple[int, int, str], float]] = {}

    def look(
        self,
        ranks: Mapping[int, RankSnapshot],
        expected: range,
        now: float,
        states: frozenset[str] = WORKING,
    ) -> Stall | None:
        """Return the longest stall of a rank in `states`; None without one, or if a rank is missing."""
        for rank, snapshot in ranks.items():
            place = (snapshot.pid, snapshot.step, snapshot.state)
            known = self._moved.get(rank)
            if known is None or known[0] != place:
                self._moved[rank] = (place, now)
        working = {rank: snapshot.step for rank, snapshot in ranks.items() if snapshot.state in states}
        if not working or any(rank not in ranks for rank in expected):
            return None
        step = min(working.values())
        behind = [rank for rank, at in working.items() if at == step]
        alone = behind[0] if len(behind) == 1 < len(working) else None
        return Stall(now - min(self._moved[rank][1] for rank in working), step, alone)
