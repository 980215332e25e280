"""Measures how long the ranks of this node have made no step; saves their stacks before they are killed.

Times are monotonic seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from aurl_trainer.launcher.environment import LaunchEnvironment
from aurl_trainer.launcher.rundir import read_ranks
from aurl_trainer.launcher.stacks import save_stacks
from aurl_trainer.monitor.snapshot import RankSnapshot

log = logging.getLogger(__name__)

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


class HangDetector:
    """Watches the ranks of this node; inactive without a deadline for steps (AURL_HANG_SECONDS)."""

    def __init__(self, environment: LaunchEnvironment) -> None:
        self._environment = environment
        self._watch = StallWatch()

    def check(self, now: float) -> Stall | None:
        """Return the stall that exceeded the deadline, with the stacks saved; None if there is none."""
        return self._explain(now, WORKING, 1.0)

    def explain_sigterm(self, now: float) -> None:
        """Save the stacks if the ranks seem to hang: the sender of SIGTERM may have noticed first."""
        self._explain(now, UNFINISHED, 0.5)

    def _explain(self, now: float, states: frozenset[str], share: float) -> Stall | None:
        """Save the stacks if ranks in one of `states` have stalled for this share of the deadline."""
        environment = self._environment
        if environment.hang_seconds is None:
            return None
        ranks = read_ranks(environment.run_dir, environment.local_ranks)
        stall = self._watch.look(ranks, environment.local_ranks, now, states)
        if stall is None or stall.seconds < share * environment.hang_seconds:
            return None
        log.error(f"launcher: {stall.sentence}", extra={"step": stall.step, "seconds": round(stall.seconds)})
        target = environment.job_dir / "stacks" / f"attempt-{environment.attempt}"
        save_stacks(environment.run_dir, ranks, target, stall.sentence)
        return stall
