"""What is left to do for a job that has finished: clean up its pods, free its address, delete it in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from aurl_operator.api.spec import RunPolicy
from aurl_operator.api.status import JobStatus
from aurl_operator.core.actions import Action, Delete, DeleteJob, Plan
from aurl_operator.core.conditions import find
from aurl_operator.core.gang import dismiss
from aurl_operator.core.names import JobRef
from aurl_operator.core.parsers import dig, text
from aurl_operator.core.podview import PodView

#: Reasons of failure whose very purpose is to stop the pods, whatever cleanPodPolicy says.
_STOPPING: Final = frozenset({"DeadlineExceeded", "StartupDeadlineExceeded"})


def clean_up(
    policy: RunPolicy,
    reason: str,
    pods: Sequence[PodView],
    service: Mapping[str, Any] | None,
    now: datetime,
) -> tuple[list[Action], float | None]:
    """Deletions that cleanPodPolicy asks for, and of the Service, whose address nobody needs any more."""
    if policy.clean_pod_policy == "All":
        leaving = list(pods)
    elif policy.clean_pod_policy == "Running" or reason in _STOPPING:
        leaving = [pod for pod in pods if not pod.over]
    else:
        leaving = []
    leaving += [pod for pod in pods if pod.role == "placeholder" and pod not in leaving]
    deletions, wake = dismiss(leaving, now)
    actions: list[Action] = [*deletions]
    name, uid = text(dig(service, "metadata", "name")), text(dig(service, "metadata", "uid"))
    if name and uid and not dig(service, "metadata", "deletionTimestamp"):
        actions.append(Delete("Service", name, uid))
    return actions, wake


def after_finish(
    who: JobRef,
    status: JobStatus,
    policy: RunPolicy,
    pods: Sequence[PodView],
    service: Mapping[str, Any] | None,
    now: datetime,
) -> Plan:
    """Clean up, and delete the job once its time to live is over. Nothing is ever created here."""
    failed = find(status.conditions, "Failed")
    reason = failed.reason if failed and failed.status == "True" else ""
    actions, wake = clean_up(policy, reason, pods, service, now)
    wakes = [wake] if wake is not None else []
    ttl = policy.ttl_seconds_after_finished
    if ttl is not None and status.completion_time is not None:
        left = ttl - (now - status.completion_time).total_seconds()
        if left <= 0:
            actions.append(DeleteJob(who.name, who.uid))
        else:
            wakes.append(left)
    observed = status.model_copy(update={"observed_generation": who.generation})
    return Plan(tuple(actions), observed, requeue_after=min(wakes, default=None))
