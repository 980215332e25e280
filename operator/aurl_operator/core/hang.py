"""Detects a gang that hangs: its launcher answers, but has reported no new step for too long.

Launchers watch their ranks themselves and save the stacks of all ranks. This is the second line of defence,
for a gang whose ranks never found each other, or whose launcher hangs as well.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from aurl_operator.api.status import Failure, JobStatus
from aurl_operator.core.progress import ProgressReport

#: Seconds after which a report is stale: a launcher that cannot be reached may well be training.
FRESH_SECONDS: Final = 15.0
#: How much longer than the launchers the operator waits: seconds at most, and as a share of their deadline.
LAUNCHER_FIRST_SECONDS: Final = 15
_LAUNCHER_FIRST_SHARE: Final = 0.5


def hang_deadline(deadline: int | None) -> int | None:
    """Return the seconds without a step after which the operator stops a gang that its launchers did not."""
    if deadline is None:
        return None
    return deadline + max(1, min(LAUNCHER_FIRST_SECONDS, int(_LAUNCHER_FIRST_SHARE * deadline)))


def last_advance(status: JobStatus) -> datetime | None:
    """Return when the attempt last advanced: its latest step, or when all of its pods were running."""
    running = status.launch.running_time if status.launch else None
    stepped = status.progress.last_step_time if status.progress else None
    return max(running, stepped) if running and stepped else running


def detect_hang(
    status: JobStatus, report: ProgressReport | None, attempt: int, now: datetime, interval: float
) -> Failure | None:
    """Return the failure of an attempt whose deadline for a new step has passed.

    None if there is no fresh, readable report, or if it shows a new step or the end of the training.
    `interval`: seconds between two polls.
    """
    if (
        report is None
        or report.problem
        or (now - report.read_at).total_seconds() > max(FRESH_SECONDS, 3 * interval)
    ):
        return None
    progress, since = status.progress, last_advance(status)
    step, known = report.step, progress.step if progress else None
    if since is None or report.finished or step != known:
        return None
    seconds = (now - since).total_seconds()
    where = f"at step {step}" if step is not None else "before its first step"
    return Failure(
        failure_class="Hang",
        reason="Hang",
        message=f"No new step for {seconds:.0f} s: attempt {attempt} hangs {where}.",
        role="worker",
        attempt=attempt,
        step=step,
        time=now,
    )
