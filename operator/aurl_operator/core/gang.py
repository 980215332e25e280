"""The pods that a job needs at one moment (the prepare pod, or an attempt's workers), and their health."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from aurl_operator.api.status import Role
from aurl_operator.core.actions import ENDING, Delete, Refusal
from aurl_operator.core.conditions import Blocker
from aurl_operator.core.names import pod_name
from aurl_operator.core.podview import PodView

#: Seconds after a pod should have gone at which its node is given up and the pod is removed by force.
FORCE_DELETE_SECONDS: Final = 120.0
#: Waiting reasons of a container that do not pass by themselves, with what the user can do.
_STUCK: Final[dict[str, str]] = {
    "ImagePullBackOff": "check spec.image and spec.podTemplate.imagePullSecrets",
    "ErrImagePull": "check spec.image and spec.podTemplate.imagePullSecrets",
    "ErrImageNeverPull": "the image is not on the node and may not be pulled",
    "InvalidImageName": "correct spec.image",
    "RegistryUnavailable": "check the registry",
    "CreateContainerConfigError": "check spec.podTemplate",
    "CreateContainerError": "check spec.podTemplate and the node",
}
#: Seconds for which the scheduler must have found no node before that is told: a claim that is just being
#: bound, or a pod that has just ended, looks the same for a moment.
UNSCHEDULABLE_SECONDS: Final = 5.0
#: Seconds that volumes may take to be mounted, and an image to be pulled, before that is told.
CREATING_SECONDS: Final = 120.0
_IMAGE_REASONS: Final = frozenset({"ImagePullBackOff", "ErrImagePull"})


@dataclass(frozen=True)
class Gang:
    """The members of a gang by index, and the pods of the job that must go before members may be created."""

    job_name: str
    role: Role
    attempt: int
    size: int
    members: Mapping[int, PodView]
    stale: tuple[PodView, ...]
    placeholders: tuple[PodView, ...] = ()

    @property
    def missing(self) -> tuple[int, ...]:
        """Indexes of members that do not exist."""
        return tuple(index for index in range(self.size) if index not in self.members)

    @property
    def missing_names(self) -> tuple[str, ...]:
        """Names of members that do not exist."""
        return tuple(pod_name(self.job_name, self.role, self.attempt, index) for index in self.missing)

    @property
    def up(self) -> bool:
        """Whether every member runs or has succeeded."""
        return not self.missing and all(
            pod.phase in ("Running", "Succeeded") and not pod.leaving for pod in self.members.values()
        )

    @property
    def ready(self) -> int:
        """Number of members that run."""
        return sum(pod.phase == "Running" and pod.ready and not pod.leaving for pod in self.members.values())

    @property
    def placed(self) -> int:
        """Number of members that have a node."""
        return sum(bool(pod.node) and not pod.leaving for pod in self.members.values())

    @property
    def half_placed(self) -> bool:
        """Whether some members hold room on a node while others have none (or are refused, by a quota)."""
        return 0 < self.placed < self.size and not any(pod.over for pod in self.members.values())

    @property
    def succeeded(self) -> bool:
        """Whether every member has done its work."""
        return not self.missing and all(pod.phase == "Succeeded" for pod in self.members.values())


def find_gang(job_name: str, role: Role, attempt: int, size: int, pods: Sequence[PodView]) -> Gang:
    """Sort the pods of a job into members of a gang, placeholder pods beside it, and stale ones."""
    members: dict[int, PodView] = {}
    placeholders: list[PodView] = []
    stale: list[PodView] = []
    for pod in pods:
        mine = pod.role == role and pod.attempt == attempt and pod.index < size
        if mine and pod.index not in members:
            members[pod.index] = pod
        elif pod.role == "placeholder" and role == "worker" and pod.attempt == attempt and not pod.over:
            placeholders.append(pod)
        elif not is_record(pod):
            stale.append(pod)
    return Gang(job_name, role, attempt, size, members, tuple(stale), tuple(placeholders))


def size_of(role: Role, attempt: int, pods: Sequence[PodView]) -> int | None:
    """With how many members a gang was begun, as its pods say; None while it has none."""
    sizes = (pod.size for pod in pods if pod.role == role and pod.attempt == attempt)
    return max((size for size in sizes if size is not None), default=None)


def is_record(pod: PodView) -> bool:
    """Whether a pod is only kept for its log: a prepare pod that did its work disturbs nobody."""
    return pod.role == "prepare" and pod.phase == "Succeeded"


def dismiss(pods: Sequence[PodView], now: datetime) -> tuple[list[Delete], float | None]:
    """Deletions that make pods go, and the seconds until those that linger are removed by force.

    A pod whose node is lost never confirms its end; it is given up long after its grace has passed. One whose
    kubelet says that its containers have ended goes at once: that the kubelet has tidied up behind it, which
    takes 10 s in 1.20, need not be waited for.
    """
    deletions: list[Delete] = []
    waits: list[float] = []
    for pod in pods:
        if pod.leave_by is None:
            deletions.append(Delete("Pod", pod.name, pod.uid))
            continue
        overdue_in = (pod.leave_by - now).total_seconds() + FORCE_DELETE_SECONDS
        if overdue_in <= 0 or pod.has_ended:
            deletions.append(Delete("Pod", pod.name, pod.uid, force=True))
        else:
            waits.append(overdue_in)
    return deletions, min(waits, default=None)


def pod_blocker(pods: Sequence[PodView], now: datetime) -> tuple[Blocker | None, float | None]:
    """What keeps one of the pods from running, as the scheduler or the kubelet tells it.

    Also the seconds until a pod that cannot be scheduled yet is worth telling.
    """
    waits: list[float] = []
    for pod in pods:
        if pod.gated and not pod.leaving:
            message = f"Pod {pod.name} waits until its queue admits it."
            return Blocker("Queued", message), None
        if pod.silent and not pod.leaving:
            message = (
                f"Node {pod.node} of pod {pod.name} no longer reports; if it does not come back, the pod is "
                "evicted and the gang is started anew elsewhere."
            )
            return Blocker("NodeNotReporting", message), None
        if pod.phase != "Pending" or pod.leaving:
            continue
        if pod.waiting_reason in _STUCK:
            detail = pod.waiting_message or "no detail given"
            reason = "ImagePullBackOff" if pod.waiting_reason in _IMAGE_REASONS else pod.waiting_reason
            message = f"Pod {pod.name} cannot start: {detail}; {_STUCK[pod.waiting_reason]}."
            return Blocker(reason, message), None
        if pod.waiting_reason == "ContainerCreating" and pod.scheduled_since is not None:
            wait = CREATING_SECONDS - (now - pod.scheduled_since).total_seconds()
            if wait > 0:
                waits.append(wait)
                continue
            message = (
                f"Pod {pod.name} has been on node {pod.node} for more than {CREATING_SECONDS:.0f} s and its "
                "container is not created: its image may still be on the way, or a volume is missing or used "
                "elsewhere; its events say which."
            )
            return Blocker("ContainerNotCreated", message), None
        if pod.unschedulable:
            wait = _still_passing(pod.scheduled_since, now)
            if wait > 0:
                waits.append(wait)
                continue
            sentence = pod.unschedulable.rstrip(". ")
            return Blocker("Unschedulable", f"Pod {pod.name} cannot be scheduled: {sentence}."), None
    return None, min(waits, default=None)


def _still_passing(since: datetime | None, now: datetime) -> float:
    """Seconds for which an blocker may still be a passing one; 0 where its beginning makes no sense."""
    if since is None:
        return 0.0
    left = UNSCHEDULABLE_SECONDS - (now - since).total_seconds()
    return left if 0 < left <= 2 * UNSCHEDULABLE_SECONDS else 0.0


def namespace_ends(refusals: Mapping[str, Refusal]) -> bool:
    """Whether the API server refused an object because the namespace is being deleted, which is final."""
    return any(refusal.code == 403 and ENDING in refusal.message for refusal in refusals.values())


def refusal_blocker(kind: str, name: str, refusal: Refusal) -> Blocker:
    """The API server's refusal of an object, as a reason and a sentence."""
    sentence = refusal.message.rstrip(". ")
    if refusal.code == 409:
        return Blocker("NameConflict", f"{kind} {name} exists and belongs to something else; delete it.")
    if refusal.code == 403 and "quota" in refusal.message:
        return Blocker("QuotaExceeded", f"{kind} {name} cannot be created: {sentence}.")
    if refusal.code in (401, 403) and "cannot create resource" in refusal.message:
        return Blocker("OperatorForbidden", f"The operator lacks a permission: {sentence}.")
    if refusal.code == 404:
        return Blocker(
            "GangSchedulerMissing",
            f"{kind} {name} cannot be created, the cluster does not know its kind: install the scheduler "
            "that spec.gangScheduling.provider names, or choose another.",
        )
    reason = "AdmissionDenied" if refusal.code in (400, 403) else "CreateFailed"
    return Blocker(reason, f"{kind} {name} was refused: {sentence}.")


def retry_at(refusal: Refusal) -> datetime:
    """When an object that was refused is tried again: 2, 4, 8, 16, 30 s after the refusal."""
    return refusal.time + timedelta(seconds=min(2.0 ** min(refusal.count, 8), 30.0))
