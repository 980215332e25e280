"""The gang: the pods that a job needs at one time (the prepare pod or all workers), and their health."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from aurl_operator.api.status import Role
from aurl_operator.core import podgroups
from aurl_operator.core.actions import NAMESPACE_TERMINATING, Action, Create, Delete, Patch, Refusal
from aurl_operator.core.conditions import Blocker
from aurl_operator.core.names import pod_name
from aurl_operator.core.podview import PodView

#: Seconds after the deletion deadline of a pod at which it is deleted by force, as its node must be lost.
FORCE_DELETE_SECONDS: Final = 120.0
#: Seconds after the request to delete a pod at which one whose end has no time is deleted by force.
UNTIMED_END_SECONDS: Final = 5.0
#: Reasons for a waiting container that need action by the user, with the remedy.
_STUCK: Final[dict[str, str]] = {
    "ImagePullBackOff": "check spec.image and spec.podTemplate.imagePullSecrets",
    "ErrImagePull": "check spec.image and spec.podTemplate.imagePullSecrets",
    "ErrImageNeverPull": "the image is not on the node and the pull policy forbids pulling it",
    "InvalidImageName": "correct spec.image",
    "RegistryUnavailable": "check the registry",
    "CreateContainerConfigError": "check spec.podTemplate",
    "CreateContainerError": "check spec.podTemplate and the node",
    "CrashLoopBackOff": "see the log of the container",
}
#: Seconds without a node before a pod is reported as unschedulable: a claim that is just being bound, or a
#: pod that has just terminated, looks the same for a moment.
UNSCHEDULABLE_SECONDS: Final = 5.0
#: Seconds that mounting volumes and pulling the image may take before it is reported.
CREATING_SECONDS: Final = 120.0
_IMAGE_REASONS: Final = frozenset({"ImagePullBackOff", "ErrImagePull"})


@dataclass(frozen=True)
class Gang:
    """Members by index, placeholder pods, and stale pods, which must be gone before members are created."""

    job_name: str
    role: Role
    attempt: int
    size: int
    members: Mapping[int, PodView]
    stale: tuple[PodView, ...]
    placeholders: tuple[PodView, ...] = ()

    @property
    def missing(self) -> tuple[int, ...]:
        """Indexes of the members that do not exist."""
        return tuple(index for index in range(self.size) if index not in self.members)

    @property
    def missing_names(self) -> tuple[str, ...]:
        """Names of the members that do not exist."""
        return tuple(pod_name(self.job_name, self.role, self.attempt, index) for index in self.missing)

    @property
    def up(self) -> bool:
        """True if every member is running or has succeeded."""
        return not self.missing and all(
            (pod.succeeded or (pod.phase == "Running" and not pod.failed)) and not pod.terminating
            for pod in self.members.values()
        )

    @property
    def ready(self) -> int:
        """Number of running members."""
        return sum(
            pod.phase == "Running" and pod.ready and not pod.ended and not pod.terminating
            for pod in self.members.values()
        )

    @property
    def queued(self) -> bool:
        """True while a queue has not admitted all members."""
        return any(pod.gated for pod in self.members.values())

    @property
    def placed(self) -> int:
        """Number of members with a node."""
        return sum(bool(pod.node) and not pod.terminating for pod in self.members.values())

    @property
    def partly_placed(self) -> bool:
        """True if some members hold a node while others have none, or are refused by a quota."""
        return 0 < self.placed < self.size and not any(pod.ended for pod in self.members.values())

    @property
    def succeeded(self) -> bool:
        """True if every member has succeeded."""
        return not self.missing and all(pod.succeeded for pod in self.members.values())


def find_gang(job_name: str, role: Role, attempt: int, size: int, pods: Sequence[PodView]) -> Gang:
    """Sort the pods of a job into members of a gang, its placeholder pods, and stale pods."""
    members: dict[int, PodView] = {}
    placeholders: list[PodView] = []
    stale: list[PodView] = []
    for pod in pods:
        mine = pod.role == role and pod.attempt == attempt and pod.index < size
        if mine and pod.index not in members:
            members[pod.index] = pod
        elif pod.role == "placeholder" and role == "worker" and pod.attempt == attempt and not pod.ended:
            placeholders.append(pod)
        elif not is_record(pod):
            stale.append(pod)
    return Gang(job_name, role, attempt, size, members, tuple(stale), tuple(placeholders))


def size_of(role: Role, attempt: int, pods: Sequence[PodView]) -> int | None:
    """Return the size that a gang was started with, from its pods' labels; None without pods."""
    sizes = (pod.size for pod in pods if pod.role == role and pod.attempt == attempt)
    return max((size for size in sizes if size is not None), default=None)


def is_record(pod: PodView) -> bool:
    """True if a pod is kept only for its log: a prepare pod that has succeeded and runs no sidecar."""
    return pod.role == "prepare" and pod.succeeded and pod.over


def dismiss(pods: Sequence[PodView], now: datetime) -> tuple[list[Delete], float | None]:
    """Return deletions of pods, and the seconds until those that linger are deleted by force.

    A pod on a lost node never confirms its termination; it is deleted by force long after its grace period.
    One whose containers have terminated is deleted immediately, or after `UNTIMED_END_SECONDS` if the kubelet
    does not say when they did: its clean-up takes 10 to 60 s in Kubernetes 1.20.
    """
    deletions: list[Delete] = []
    waits: list[float] = []
    for pod in pods:
        if pod.delete_by is None:
            deletions.append(Delete("Pod", pod.name, pod.uid))
            continue
        force_in = _force_in(pod, pod.delete_by, now)
        if force_in <= 0:
            deletions.append(Delete("Pod", pod.name, pod.uid, force=True))
        else:
            waits.append(force_in)
    return deletions, min(waits, default=None)


def _force_in(pod: PodView, delete_by: datetime, now: datetime) -> float:
    """Return the seconds until a pod that is being deleted is deleted by force."""
    if pod.stopped:
        return 0.0
    left = (delete_by - now).total_seconds() + FORCE_DELETE_SECONDS
    # An evicted pod is in a terminal phase while it still runs; any other is not.
    evicted = pod.reason or pod.disruption
    if pod.finished and pod.terminated is not None and not evicted and pod.deletion_requested is not None:
        left = min(left, (pod.deletion_requested - now).total_seconds() + UNTIMED_END_SECONDS)
    return left


def pod_blocker(pods: Sequence[PodView], now: datetime) -> tuple[Blocker | None, float | None]:
    """Return what keeps one of the pods from running, as the scheduler or the kubelet reports it.

    Also return the seconds until a pod that is still pending counts as blocked.
    """
    waits: list[float] = []
    for pod in pods:
        blocker, wait = (None, None) if pod.terminating else _blocker_of(pod, now)
        if blocker is not None:
            return blocker, None
        if wait is not None:
            waits.append(wait)
    return None, min(waits, default=None)


def _blocker_of(pod: PodView, now: datetime) -> tuple[Blocker | None, float | None]:
    if pod.gated:
        return Blocker("Queued", f"Pod {pod.name} is waiting to be admitted by its queue."), None
    if pod.node_silent:
        message = (
            f"Node {pod.node} of pod {pod.name} no longer reports; if it does not come back, the pod is "
            "evicted and the gang restarts elsewhere."
        )
        return Blocker("NodeNotReporting", message), None
    if pod.phase != "Pending":
        return None, None
    if pod.waiting_reason in _STUCK:
        detail = pod.waiting_message or "no detail given"
        reason = "ImagePullBackOff" if pod.waiting_reason in _IMAGE_REASONS else pod.waiting_reason
        who, cure = f"Pod {pod.name}", _STUCK[pod.waiting_reason]
        if pod.waiting_container:
            who = f"Container {pod.waiting_container} of pod {pod.name}"
            cure = "an admission webhook of the cluster added it: correct that, or keep it out of the pods"
        return Blocker(reason, f"{who} cannot start: {detail}; {cure}."), None
    if pod.waiting_reason in ("ContainerCreating", "PodInitializing") and pod.scheduled_since is not None:
        wait = CREATING_SECONDS - (now - pod.scheduled_since).total_seconds()
        return (None, wait) if wait > 0 else (_not_created(pod), None)
    if pod.unschedulable:
        wait = _still_passing(pod.scheduled_since, now)
        message = f"Pod {pod.name} cannot be scheduled: {pod.unschedulable.rstrip('. ')}."
        return (None, wait) if wait > 0 else (Blocker("Unschedulable", message), None)
    return None, None


def _not_created(pod: PodView) -> Blocker:
    """Return the blocker for a pod whose trainer has not been created for `CREATING_SECONDS`."""
    if pod.waiting_container:
        message = (
            f"Pod {pod.name} has waited for its init container {pod.waiting_container} for more than "
            f"{CREATING_SECONDS:.0f} s; see kubectl logs {pod.name} -c {pod.waiting_container}."
        )
        return Blocker("InitContainerNotDone", message)
    message = (
        f"Pod {pod.name} has been on node {pod.node} without a container for more than "
        f"{CREATING_SECONDS:.0f} s: its image is still being pulled, or a volume is missing or in use "
        "elsewhere; see the events of the pod."
    )
    return Blocker("ContainerNotCreated", message)


def _still_passing(since: datetime | None, now: datetime) -> float:
    """Return the seconds during which being unschedulable may still pass; 0 if `since` is implausible."""
    if since is None:
        return 0.0
    left = UNSCHEDULABLE_SECONDS - (now - since).total_seconds()
    return left if 0 < left <= 2 * UNSCHEDULABLE_SECONDS else 0.0


def namespace_terminating(refusals: Mapping[str, Refusal]) -> bool:
    """True if the API server refused an object because the namespace is being deleted, which is final."""
    return any(
        refusal.code == 403 and NAMESPACE_TERMINATING in refusal.message for refusal in refusals.values()
    )


def refusal_blocker(action: Action, refusal: Refusal) -> Blocker:
    """Return the blocker for an action that the API server refused."""
    kind, name, sentence = action.kind, action.name, refusal.message.rstrip(". ")
    if isinstance(action, Patch):
        return Blocker("UpdateFailed", f"{kind} {name} cannot be updated{_because(refusal)}: {sentence}.")
    if not isinstance(action, Create):
        return Blocker("DeleteFailed", f"{kind} {name} cannot be deleted{_because(refusal)}: {sentence}.")
    if refusal.code == 409:
        return Blocker("NameConflict", f"{kind} {name} exists but belongs to something else; delete it.")
    if refusal.code == 403 and "quota" in refusal.message:
        return Blocker("QuotaExceeded", f"{kind} {name} cannot be created: {sentence}.")
    if refusal.code in (401, 403) and "cannot create resource" in refusal.message:
        return Blocker("OperatorForbidden", f"The operator lacks a permission: {sentence}.")
    if refusal.code == 404 and kind in podgroups.KINDS:
        return Blocker(
            "GangSchedulerMissing",
            f"{kind} {name} cannot be created because the cluster does not know this kind: install the "
            "scheduler of spec.gangScheduling.provider, or choose another provider.",
        )
    if refusal.code in (400, 403):
        return Blocker("AdmissionDenied", f"{kind} {name} was refused: {sentence}.")
    return Blocker("CreateFailed", f"{kind} {name} cannot be created{_because(refusal)}: {sentence}.")


def _because(refusal: Refusal) -> str:
    if refusal.code == 0:
        return " because the API server does not answer"
    if refusal.code == 429:
        return " because the API server limits requests"
    return f" because the API server answers with error {refusal.code}" if refusal.server_fault else ""


def retry_at(refusal: Refusal) -> datetime:
    """Return when to retry an action that was refused: 2, 4, 8, 16, 30 s after the refusal.

    A fault of the server may pass sooner: 1, 2, 4 … 30 s.
    """
    first = 0.5 if refusal.server_fault else 1.0
    wait = min(first * 2.0 ** min(refusal.count, 8), 30.0)
    return refusal.time + timedelta(seconds=max(wait, refusal.retry_after))
