"""An immutable view of one pod of a job, parsed once and defensively when the pod enters the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, get_args

from aurl_operator.api.base import parse_time
from aurl_operator.api.status import Role
from aurl_operator.core.names import LABEL_ATTEMPT, LABEL_INDEX, LABEL_ROLE, LABEL_SIZE
from aurl_operator.core.parsers import dig, integer, items, mapping, text

CONTAINER = "trainer"
ROLES: Final[tuple[Role, ...]] = get_args(Role)
#: Reasons for which every container waits at first.
_PASSING: Final = frozenset({"PodInitializing", "ContainerCreating"})


class _Waiting(NamedTuple):
    """The container that waits, empty for the trainer, and why."""

    name: str
    reason: str
    message: str


@dataclass(frozen=True)
class Terminated:
    """The termination of the trainer container; `report` is the launcher's JSON, empty if it wrote none."""

    exit_code: int | None
    signal: int | None
    reason: str
    message: str
    finished_at: datetime | None
    report: Mapping[str, Any]


@dataclass(frozen=True)
class PodView:
    """One pod, judged by its container `trainer`: injected sidecars may outlive it, and decide the phase.

    ready: False only if the trainer is reported as not ready. node_silent: its node no longer reports.
    delete_by: deletionTimestamp, which includes the grace period. disruption: why the platform stops the pod.
    waiting_container: the container that waits, empty if it is the trainer. init_failure: how an init
    container failed. unschedulable: what the scheduler says. gated: a queue has not admitted it yet.
    sidecar_running: a container of spec.containers other than the trainer has not terminated. Strings are
    empty if unset.
    """

    name: str
    uid: str
    role: Role
    attempt: int
    index: int
    size: int | None
    phase: str
    reason: str
    message: str
    node: str
    ip: str
    ready: bool
    unready_since: datetime | None
    node_silent: bool
    created: datetime | None
    delete_by: datetime | None
    deletion_requested: datetime | None
    disruption: str
    waiting_container: str
    waiting_reason: str
    waiting_message: str
    init_failure: str
    unschedulable: str
    scheduled_since: datetime | None
    gated: bool
    terminated: Terminated | None
    sidecar_running: bool

    @property
    def terminating(self) -> bool:
        """True if the pod is being deleted."""
        return self.delete_by is not None

    @property
    def finished(self) -> bool:
        """True if the pod is in a terminal phase."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def succeeded(self) -> bool:
        """True if the trainer has succeeded, even if a sidecar still runs or has failed."""
        return self._exit_code == 0 if self._exit_code is not None else self.phase == "Succeeded"

    @property
    def failed(self) -> bool:
        """True if the trainer, or the pod before or around it, has failed."""
        return not self.succeeded and (self._exit_code is not None or self.phase in ("Failed", "Unknown"))

    @property
    def ended(self) -> bool:
        """True if the pod's work has succeeded or failed."""
        return self.succeeded or self.failed

    @property
    def lingering(self) -> bool:
        """True if the trainer has terminated and a sidecar would keep the pod running forever.

        Native sidecars (init containers with restartPolicy Always) are not meant: the kubelet stops them.
        """
        return self.terminated is not None and self.sidecar_running and self.phase == "Running"

    @property
    def over(self) -> bool:
        """True if the pod needs no deletion to release its resources."""
        return self.finished or (self.terminated is not None and not self.sidecar_running)

    @property
    def _exit_code(self) -> int | None:
        return self.terminated.exit_code if self.terminated is not None else None

    @property
    def stopped(self) -> bool:
        """True if the kubelet has reported that nothing of the pod is running any more.

        The phase alone does not show it: an evicted pod has failed while it still runs. Nor does a terminated
        container: another may be running. A termination without a time is the kubelet's guess.
        """
        return self.finished and self.terminated is not None and self.terminated.finished_at is not None


def pod_view(pod: Mapping[str, Any]) -> PodView | None:
    """Return the view of a pod, or None if its labels do not identify a member of an attempt."""
    labels = mapping(dig(pod, "metadata", "labels"))
    attempt, index = integer(labels.get(LABEL_ATTEMPT), high=10**6), integer(labels.get(LABEL_INDEX))
    role = next((role for role in ROLES if role == labels.get(LABEL_ROLE)), None)
    name, uid = text(dig(pod, "metadata", "name")), text(dig(pod, "metadata", "uid"))
    if attempt is None or index is None or role is None or not (name and uid):
        return None
    status = mapping(pod.get("status"))
    conditions = {text(item.get("type")): item for item in items(status.get("conditions"))}
    containers = items(status.get("containerStatuses"))
    init_containers = items(status.get("initContainerStatuses"))
    container = next((each for each in containers if each.get("name") == CONTAINER), {})
    waiting = _waiting(container, containers, init_containers)
    silent = _node_silent(conditions, container, [*containers, *init_containers])
    delete_by, deletion_requested = _deletion(mapping(pod.get("metadata")))
    return PodView(
        name=name,
        uid=uid,
        role=role,
        attempt=attempt,
        index=index,
        size=integer(labels.get(LABEL_SIZE), low=1, high=1000),
        phase=text(status.get("phase")) or "Pending",
        reason=text(status.get("reason")),
        message=text(status.get("message")),
        node=text(dig(pod, "spec", "nodeName")),
        ip=text(status.get("podIP")),
        ready=dig(conditions.get("Ready"), "status") != "False"
        or (container.get("ready") is True and not silent),
        unready_since=_unready_since(conditions),
        node_silent=silent,
        created=parse_time(dig(pod, "metadata", "creationTimestamp")),
        delete_by=delete_by,
        deletion_requested=deletion_requested,
        disruption=_disruption(conditions),
        waiting_container=waiting.name,
        waiting_reason=waiting.reason,
        waiting_message=waiting.message,
        init_failure=_init_failure(init_containers),
        unschedulable=_unschedulable(conditions),
        scheduled_since=parse_time(conditions.get("PodScheduled", {}).get("lastTransitionTime")),
        gated=conditions.get("PodScheduled", {}).get("reason") == "SchedulingGated",
        terminated=_terminated(mapping(dig(container, "state", "terminated"))),
        sidecar_running=any(
            each is not container and not mapping(dig(each, "state", "terminated")) for each in containers
        ),
    )


def _waiting(
    trainer: Mapping[str, Any],
    containers: Sequence[Mapping[str, Any]],
    init_containers: Sequence[Mapping[str, Any]],
) -> _Waiting:
    """Return what keeps the trainer from starting: any container of the pod may."""
    for each in (*init_containers, *containers):
        state = mapping(dig(each, "state", "waiting"))
        reason = text(state.get("reason"))
        if reason and reason not in _PASSING:
            name = "" if each is trainer else text(each.get("name"))
            return _Waiting(name, reason, text(state.get("message")))
    state = mapping(dig(trainer, "state", "waiting"))
    reason = text(state.get("reason"))
    unfinished = (
        text(each.get("name"))
        for each in init_containers
        if each.get("started") is not True and not mapping(dig(each, "state", "terminated"))
    )
    name = next(unfinished, "") if reason == "PodInitializing" else ""
    return _Waiting(name, reason, text(state.get("message")))


def _init_failure(init_containers: Sequence[Mapping[str, Any]]) -> str:
    """Return which init container failed, and how; native sidecars are restarted instead."""
    for each in init_containers:
        ended = _terminated(mapping(dig(each, "state", "terminated")))
        if ended is not None and ended.exit_code:
            last_line = ended.message.strip().splitlines()[-1:]
            detail = f": {last_line[0][:512]}" if last_line else ""
            return f"init container {text(each.get('name'))} exited with code {ended.exit_code}{detail}"
    return ""


def _unready_since(conditions: Mapping[str, Mapping[str, Any]]) -> datetime | None:
    ready = conditions.get("Ready", {})
    return parse_time(ready.get("lastTransitionTime")) if ready.get("status") == "False" else None


def _node_silent(
    conditions: Mapping[str, Mapping[str, Any]],
    trainer: Mapping[str, Any],
    containers: Sequence[Mapping[str, Any]],
) -> bool:
    """True if the pod's node no longer reports.

    The control plane then marks the pod as not ready, and all containers keep the kubelet's last report.
    """
    unready = conditions.get("Ready", {}).get("status") == "False"
    running = "running" in mapping(trainer.get("state"))
    return unready and running and all(each.get("ready") is True for each in containers)


def _deletion(metadata: Mapping[str, Any]) -> tuple[datetime | None, datetime | None]:
    """Return when the pod must be gone (deletionTimestamp, with its grace) and when that was requested."""
    delete_by = parse_time(metadata.get("deletionTimestamp"))
    if delete_by is None:
        return None, None
    grace = integer(metadata.get("deletionGracePeriodSeconds"), high=10**6) or 0
    try:
        return delete_by, delete_by - timedelta(seconds=grace)
    except OverflowError:
        return delete_by, delete_by


def _disruption(conditions: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the reason of the condition DisruptionTarget (Kubernetes ≥ 1.26), or an empty string.

    Kueue sets TerminationTarget on the pods of a workload that it stops in favour of another.
    """
    if conditions.get("TerminationTarget", {}).get("status") == "True":
        return "StoppedByQueue"
    target = conditions.get("DisruptionTarget", {})
    return text(target.get("reason")) or "Disrupted" if target.get("status") == "True" else ""


def _unschedulable(conditions: Mapping[str, Mapping[str, Any]]) -> str:
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        return text(scheduled.get("message")) or "no node fits"
    return ""


def _terminated(state: Mapping[str, Any]) -> Terminated | None:
    if not state:
        return None
    message = text(state.get("message"), 4096)
    return Terminated(
        exit_code=integer(state.get("exitCode"), low=-(2**31), high=2**31),
        signal=integer(state.get("signal"), high=128),
        reason=text(state.get("reason")),
        message=message,
        finished_at=parse_time(state.get("finishedAt")),
        report=_report(message),
    )


def _report(message: str) -> Mapping[str, Any]:
    """Return the launcher's JSON object in a termination message, or an empty one."""
    try:
        return mapping(json.loads(message)) if message.startswith("{") else {}
    except (ValueError, RecursionError):
        return {}
