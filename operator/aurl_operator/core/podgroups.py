"""Gang scheduling by Volcano, the scheduler plugins or Kueue: their labels, annotations and PodGroups."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from aurl_operator.api.spec import JobSpec
from aurl_operator.api.status import Role
from aurl_operator.core.actions import Kind
from aurl_operator.core.names import JobRef
from aurl_operator.core.objects import manifest

VOLCANO: Final[Kind] = "PodGroup.scheduling.volcano.sh"
SCHEDULER_PLUGINS: Final[Kind] = "PodGroup.scheduling.x-k8s.io"
KINDS: Final[tuple[Kind, ...]] = (VOLCANO, SCHEDULER_PLUGINS)
_API_VERSIONS: Final = {
    VOLCANO: "scheduling.volcano.sh/v1beta1",
    SCHEDULER_PLUGINS: "scheduling.x-k8s.io/v1alpha1",
}


@dataclass(frozen=True)
class SchedulingHints:
    """Settings that a provider needs on a pod. podTemplate.schedulerName overrides `scheduler`."""

    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    scheduler: str | None = None


def group_name(job: str, attempt: int) -> str:
    """Return `<job>-<attempt>`: every attempt has its own group, no pod ever joins an older one."""
    return f"{job}-{attempt}"


def scheduling_hints(job: JobRef, spec: JobSpec, role: Role, attempt: int, size: int) -> SchedulingHints:
    """Return the labels, annotations and scheduler that the provider needs on a pod."""
    gangs, group = spec.gang_scheduling, group_name(job.name, attempt)
    match gangs.provider:
        case "Volcano" if role == "worker":
            return SchedulingHints(annotations={"scheduling.k8s.io/group-name": group}, scheduler="volcano")
        case "SchedulerPlugins" if role == "worker":
            labels = {"scheduling.x-k8s.io/pod-group": group}
            return SchedulingHints(labels=labels, scheduler="scheduler-plugins-scheduler")
        case "Kueue":
            queue = {"kueue.x-k8s.io/queue-name": gangs.queue or ""}
            if role != "worker":
                return SchedulingHints(labels=queue)
            return SchedulingHints(
                labels=queue | {"kueue.x-k8s.io/pod-group-name": group},
                annotations={
                    "kueue.x-k8s.io/pod-group-total-count": str(size),
                    # The operator restarts whole gangs: Kueue must not wait for single replacements.
                    "kueue.x-k8s.io/retriable-in-group": "false",
                },
            )
    return SchedulingHints()


def pod_group(job: JobRef, spec: JobSpec, attempt: int, size: int) -> tuple[Kind, dict[str, Any]] | None:
    """Return the PodGroup of an attempt, or None if the provider has none."""
    gangs = spec.gang_scheduling
    body: dict[str, Any] = {"minMember": size}
    if gangs.provider == "Volcano":
        kind = VOLCANO
        body |= {"queue": gangs.queue} if gangs.queue else {}
        priority = spec.pod_template.priority_class_name
        body |= {"priorityClassName": priority} if priority else {}
    elif gangs.provider == "SchedulerPlugins":
        kind = SCHEDULER_PLUGINS
        body["scheduleTimeoutSeconds"] = gangs.schedule_timeout_seconds
    else:
        return None
    name = group_name(job.name, attempt)
    return kind, manifest(job, _API_VERSIONS[kind], "PodGroup", name, spec=body)
