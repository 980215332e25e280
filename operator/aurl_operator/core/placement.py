"""All or nothing on a plain cluster: a gang that finds room for a part of its pods only must not keep it.

Two jobs that each hold half of what both need would wait for one another for ever. Whoever waits longer than
its timeout lets go of its pods and comes back later; how much later depends on the job's UID and on how often
it has let go before, so that two jobs do not come back together again and again.
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
    """A new attempt that nobody's failure is the reason for, and what changes in the status with it."""

    reason: str
    message: str
    changes: dict[str, Any] = field(default_factory=dict)


def release(
    uid: str, spec: JobSpec, status: JobStatus, gang: Gang, now: datetime
) -> tuple[Move | None, float | None]:
    """Let go of a gang that has had room for some of its pods only for too long; else when to look again."""
    launch, gangs = status.launch, spec.gang_scheduling
    if launch is None or launch.start_time is None or gangs.provider != "Plain" or gang.role != "worker":
        return None, None
    if not gang.half_placed:
        return None, None
    timeout = gangs.schedule_timeout_seconds
    left = timeout - (now - launch.start_time).total_seconds()
    if left > 0:
        return None, left
    before = status.scheduling or Scheduling(since=launch.start_time)
    retry = now + timedelta(seconds=pause_seconds(uid, before.releases))
    message = (
        f"Only {gang.placed} of {gang.size} pods found room within {timeout} s; all of them are released so "
        f"that they block nobody, and tried again at {retry:%H:%M:%S} UTC."
    )
    update = {"releases": before.releases + 1, "retry_time": retry, "message": message}
    return Move("GangReleased", message, {"scheduling": before.model_copy(update=update)}), None


def pause_seconds(uid: str, releases: int) -> float:
    """Seconds before the next try: 10, 20, 40 … 600 s, times 0.5 to 1.5 by the job's UID."""
    digest = hashlib.sha256(f"{uid}/{releases}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    pause = FIRST_PAUSE_SECONDS * 2.0 ** min(releases, 16)
    return min(pause, LONGEST_PAUSE_SECONDS) * (0.5 + share)


def waiting(status: JobStatus, now: datetime) -> tuple[Blocker | None, float | None]:
    """Whether a released gang still waits for its next try, and the seconds until then."""
    scheduling = status.scheduling
    if scheduling is None or scheduling.retry_time is None or scheduling.retry_time <= now:
        return None, None
    blocker = Blocker("GangReleased", scheduling.message or "The pods did not all find room.")
    return blocker, (scheduling.retry_time - now).total_seconds()
