"""Detects ranks that hang, and saves their stacks to the volume before they are killed."""

from __future__ import annotations

import logging

from aurl_trainer.launcher import stacks
from aurl_trainer.launcher.environment import LaunchEnvironment
from aurl_trainer.launcher.rundir import read_ranks
from aurl_trainer.launcher.stall import UNFINISHED, WORKING, Stall, StallWatch

log = logging.getLogger(__name__)


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
        target = stacks.folder(environment.job_dir, environment.attempt)
        stacks.save_stacks(environment.run_dir, ranks, target, stall.sentence)
        return stall
