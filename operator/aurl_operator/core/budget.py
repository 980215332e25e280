"""Restart budgets: decides whether a failed gang is restarted, and after which delay.

Failures of the training itself consume runPolicy.backoffLimit, and each class has a limit of its own. A long
attempt that saves a new checkpoint renews both, so that rare failures do not add up to the end of a healthy
job. Infrastructure failures consume neither, but only a number of them in a row without a new checkpoint is
tolerated, so that a flapping job cannot cause a restart storm. Preemption is normal in a cluster and never
fails a job.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from aurl_operator.api.spec import RunPolicy
from aurl_operator.api.status import Failure, JobStatus, Restarts

#: Classes that do not consume runPolicy.backoffLimit, because they are not the training's fault.
FREE: Final = frozenset({"Infrastructure", "Hardware", "Preemption"})
#: An attempt that ran for this many seconds ends a row of failures, even without a checkpoint.
LONG_RUN_SECONDS: Final = 600.0
#: An attempt that ran for this many seconds and saved a new checkpoint renews the limits.
RENEWAL_SECONDS: Final = 3600.0
FIRST_DELAY_SECONDS: Final = 5.0
LONGEST_DELAY_SECONDS: Final = 300.0


@dataclass(frozen=True)
class Decision:
    """The new restart counts, and the reason to give up if it is set."""

    restarts: Restarts
    give_up_reason: str = ""
    give_up_message: str = ""


def decide(status: JobStatus, failure: Failure, policy: RunPolicy, now: datetime) -> Decision:
    """Decide what follows from a failure. Counts never decrease."""
    before = status.restarts
    saved, ran = _saved_checkpoint(status), _seconds_running(status, now)
    row = 1 if saved or ran >= LONG_RUN_SECONDS else before.consecutive + 1
    renewed = saved and ran >= RENEWAL_SECONDS
    forgiven = before.by_class if renewed else before.forgiven
    used = {
        name: n - (forgiven or {}).get(name, 0) for name, n in before.by_class.items() if name not in FREE
    }
    counted = sum(used.values())
    limits = policy.restart_limits
    kept = before.model_copy(update={"consecutive": row, "forgiven": forgiven})
    if failure.failure_class == "UserError":
        return Decision(kept, "UserError", failure.message)
    if failure.failure_class in ("Infrastructure", "Hardware"):
        if row > limits.infrastructure:
            text = f"{row} infrastructure failures in a row without a checkpoint; the last: {failure.message}"
            return Decision(kept, "InfrastructureUnstable", text)
    elif failure.failure_class not in FREE:
        if counted >= policy.backoff_limit:
            text = f"Failed after {counted} of {policy.backoff_limit} restarts: {failure.message}"
            return Decision(kept, "BackoffLimitExceeded", text)
        own = {"OutOfMemory": limits.out_of_memory, "Divergence": limits.divergence, "Hang": limits.hang}
        limit, spent = own.get(failure.failure_class), used.get(failure.failure_class, 0)
        if limit is not None and spent >= limit:
            kind = failure.failure_class
            text = f"Failed after {spent} of {limit} restarts of class {kind}: {failure.message}"
            return Decision(kept, "RestartLimitExceeded", text)
    by_class = dict(before.by_class)
    by_class[failure.failure_class] = by_class.get(failure.failure_class, 0) + 1
    return Decision(kept.model_copy(update={"total": before.total + 1, "by_class": by_class}))


def earliest_start(status: JobStatus) -> datetime | None:
    """Return when the next attempt may start: 0, 5, 10 … 300 s by failures in a row; None: immediately."""
    failure = status.last_failure
    if failure is None or failure.time is None or failure.attempt is None:
        return None
    if failure.attempt >= status.attempt or status.restarts.consecutive < 2:
        return None
    doublings = min(status.restarts.consecutive - 2, 16)
    delay = min(FIRST_DELAY_SECONDS * 2**doublings, LONGEST_DELAY_SECONDS)
    return failure.time + timedelta(seconds=delay)


def _saved_checkpoint(status: JobStatus) -> bool:
    """True if there is a checkpoint that did not exist at the previous failure."""
    saved = status.last_checkpoint.step if status.last_checkpoint else -1
    before = status.last_failure.checkpoint_step if status.last_failure else None
    return saved > (-1 if before is None else before)


def _seconds_running(status: JobStatus, now: datetime) -> float:
    """Return the seconds for which all pods of the attempt that failed have run."""
    running = status.launch.running_time if status.launch else None
    return (now - running).total_seconds() if running is not None else 0.0
