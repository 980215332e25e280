"""All-or-nothing placement without a gang scheduler: a gang of which only some pods fit must release them.

Two jobs that each hold half of what both need would wait for each other forever. A gang that has waited for
its timeout releases its pods and retries later. The pause depends on the job's UID and on the number of
earlier releases, so that two jobs do not keep colliding.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from aurl_operator.api.spec import JobSpec
from aurl_operator.api.status import JobStatus, Scheduling
from aurl_operator.core.conditions import Blocker
from aurl_operator.core.gang import Gang

FIRST_PAUSE_SECONDS: Final = 10.0
LONGEST_PAUSE_SECONDS: Final = 600.0


@dataclass(frozen=True)
class Move:
    """A new attempt without a failure, and the fields of the status that change with it."""

    reason: str
    message: str
    changes: dict[str, Any] = field(default_factory=dict)


def release(
    uid: str, spec: JobSpec, status: JobStatus, gang: Gang, now: datetime
) -> tuple[Move | None, float | None]:
    """Return a move that releases a partly placed gang, or the seconds until its timeout."""
    launch, gangs = status.launch, spec.gang_scheduling
    if launch is None or launch.start_time is None or gangs.provider != "Plain" or gang.role != "worker":
        return None, None
    if not gang.partly_placed:
        return None, None
    timeout = gangs.schedule_timeout_seconds
    left = timeout - (now - launch.start_time).total_seconds()
    if left > 0:
        return None, left
    before = status.scheduling or Scheduling(since=launch.start_time)
    retry = now + timedelta(seconds=pause_seconds(uid, before.releases))
    message = (
        f"Only {gang.placed} of {gang.size} pods found room within {timeout} s; all are released so as not "
        f"to block other jobs, and retried at {retry:%H:%M:%S} UTC."
    )
    update = {"releases": before.releases + 1, "retry_time": retry, "message": message}
    return Move("GangReleased", message, {"scheduling": before.model_copy(update=update)}), None


def pause_seconds(uid: str, releases: int) -> float:
    """Return the seconds before the next try: 10, 20, 40 … 600 s, times 0.5 to 1.5 by the job's UID."""
    digest = hashlib.sha256(f"{uid}/{releases}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    pause = FIRST_PAUSE_SECONDS * 2.0 ** min(releases, 16)
    return min(pause, LONGEST_PAUSE_SECONDS) * (0.5 + share)


def waiting(status: JobStatus, now: datetime) -> tuple[Blocker | None, float | None]:
    """Return a blocker while a released gang waits for its next try, and the seconds until then."""
    scheduling = status.scheduling
    if scheduling is None or scheduling.retry_time is None or scheduling.retry_time <= now:
        return None, None
    blocker = Blocker("GangReleased", scheduling.message or "Not all pods found room.")
    return blocker, (scheduling.retry_time - now).total_seconds()
