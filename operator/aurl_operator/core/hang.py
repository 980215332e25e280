"""Whether a gang that runs stands still: its launcher answers, but tells no new step for too long.

The launchers watch their ranks themselves and save the ranks' stacks; this is the second line, for a gang
whose ranks never met or whose launcher hangs as well.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from aurl_operator.api.status import Failure, JobStatus
from aurl_operator.api.trainer_contract import FINISHED, ProgressKey
from aurl_operator.core.parsers import integer
from aurl_operator.core.progress import ProgressReport

#: A report older than this says nothing of the present: a launcher that cannot be reached may well train on.
FRESH_SECONDS: Final = 15.0
#: Seconds by which the operator waits longer than the launchers, at most; and as a part of their deadline.
LAUNCHER_FIRST_SECONDS: Final = 15
_LAUNCHER_FIRST_SHARE: Final = 0.5


def patience(deadline: int | None) -> int | None:
    """Seconds without a step after which the operator ends a gang that its launchers have not ended."""
    if deadline is None:
        return None
    return deadline + max(1, min(LAUNCHER_FIRST_SECONDS, int(_LAUNCHER_FIRST_SHARE * deadline)))


def still_since(status: JobStatus) -> datetime | None:
    """When the present attempt last got on: its newest step, or the moment when all of its pods ran."""
    running = status.launch.running_time if status.launch else None
    stepped = status.progress.last_step_time if status.progress else None
    return max(running, stepped) if running and stepped else running


def hang(
    status: JobStatus, report: ProgressReport | None, attempt: int, now: datetime, interval: float
) -> Failure | None:
    """The failure of an attempt whose deadline for a new step has passed.

    None where a fresh report is missing, or tells of a new step or of the end. `interval`: seconds between
    two polls.
    """
    if report is None or (now - report.read_at).total_seconds() > max(FRESH_SECONDS, 3 * interval):
        return None
    progress, since = status.progress, still_since(status)
    step = integer(report.body.get(ProgressKey.STEP))
    known = progress.step if progress else None
    if since is None or report.body.get(ProgressKey.STATE) == FINISHED or step != known:
        return None
    seconds = (now - since).total_seconds()
    where = f"at step {step}" if step is not None else "before its first step"
    return Failure(
        failure_class="Hang",
        reason="Hang",
        message=f"No new step for {seconds:.0f} s: attempt {attempt} stands still {where}.",
        role="worker",
        attempt=attempt,
        step=step,
        time=now,
    )
