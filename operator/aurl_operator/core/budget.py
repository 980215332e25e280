"""Restart budgets: decides whether a failed gang is restarted, and after which delay.

Failures of the training itself consume runPolicy.backoffLimit, and each class has a limit of its own.
Infrastructure failures do not, but only a number of them in a row without a new checkpoint is tolerated, so
that a flapping job cannot cause a restart storm. Preemption is normal in a cluster and never fails a job.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from aurl_operator.api.spec import RunPolicy
from aurl_operator.api.status import Failure, JobStatus, Restarts

#: Classes that do not consume runPolicy.backoffLimit, because they are not the training's fault.
FREE: Final = frozenset({"Infrastructure", "Preemption"})
#: An attempt that ran for this many seconds ends a row of failures, even without a checkpoint.
LONG_RUN_SECONDS: Final = 600.0
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
    row = 1 if _made_progress(status, now) else before.consecutive + 1
    counted = sum(n for name, n in before.by_class.items() if name not in FREE)
    limits = policy.restart_limits
    kept = before.model_copy(update={"consecutive": row})
    if failure.failure_class == "UserError":
        return Decision(kept, "UserError", failure.message)
    if failure.failure_class == "Infrastructure":
        if row > limits.infrastructure:
            text = f"{row} infrastructure failures in a row without a checkpoint; the last: {failure.message}"
            return Decision(kept, "InfrastructureUnstable", text)
    elif failure.failure_class not in FREE:
        if counted >= policy.backoff_limit:
            text = f"Failed after {counted} of {policy.backoff_limit} restarts: {failure.message}"
            return Decision(kept, "BackoffLimitExceeded", text)
        own = {"OutOfMemory": limits.out_of_memory, "Divergence": limits.divergence, "Hang": limits.hang}
        limit, spent = own.get(failure.failure_class), before.by_class.get(failure.failure_class, 0)
        if limit is not None and spent >= limit:
            kind = failure.failure_class
            text = f"Failed after {spent} of {limit} restarts of class {kind}: {failure.message}"
            return Decision(kept, "RestartLimitExceeded", text)
    by_class = dict(before.by_class)
    by_class[failure.failure_class] = by_class.get(failure.failure_class, 0) + 1
    return Decision(Restarts(total=before.total + 1, by_class=by_class, consecutive=row))


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


def _made_progress(status: JobStatus, now: datetime) -> bool:
    """True if the attempt that failed wrote a checkpoint or ran for long."""
    saved = status.last_checkpoint.step if status.last_checkpoint else -1
    before = status.last_failure.checkpoint_step if status.last_failure else None
    if saved > (-1 if before is None else before):
        return True
    running = status.launch.running_time if status.launch else None
    return running is not None and (now - running).total_seconds() >= LONG_RUN_SECONDS
