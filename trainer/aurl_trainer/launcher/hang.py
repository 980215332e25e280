"""Detects ranks that hang, and saves their stacks to the volume before they are killed."""

from __future__ import annotations

import logging

from aurl_trainer.launcher import stacks
from aurl_trainer.launcher.environment import LaunchEnvironment
from aurl_trainer.launcher.rundir import read_ranks
from aurl_trainer.launcher.stall import UNFINISHED, Stall, StallWatch

log = logging.getLogger(__name__)


class HangDetector:
    """Watches the ranks of this node; inactive without a deadline for steps (AURL_HANG_SECONDS)."""

    def __init__(self, environment: LaunchEnvironment) -> None:
        self._environment = environment
        self._watch = StallWatch()

    def check(self, now: float) -> Stall | None:
        """Return the stall that exceeded the deadline, with the stacks saved; None if there is none."""
        limit = self._environment.hang_seconds
        if limit is None:
            return None
        ranks = read_ranks(self._environment.run_dir, self._environment.local_ranks)
        stall = self._watch.look(ranks, self._environment.local_ranks, now)
        if stall is None or stall.seconds < limit:
            return None
        self._save_stacks(stall)
        return stall

    def explain_sigterm(self, now: float) -> None:
        """Save the stacks if the ranks seem to hang: the sender of SIGTERM may have noticed first."""
        limit = self._environment.hang_seconds
        if limit is None:
            return
        ranks = read_ranks(self._environment.run_dir, self._environment.local_ranks)
        stall = self._watch.look(ranks, self._environment.local_ranks, now, UNFINISHED)
        if stall is not None and stall.seconds >= limit / 2:
            self._save_stacks(stall)

    def _save_stacks(self, stall: Stall) -> None:
        environment = self._environment
        log.error(f"launcher: {stall.sentence}", extra={"step": stall.step, "seconds": round(stall.seconds)})
        ranks = read_ranks(environment.run_dir, environment.local_ranks)
        target = stacks.folder(environment.job_dir, environment.attempt)
        stacks.save_stacks(environment.run_dir, ranks, target, stall.sentence)
