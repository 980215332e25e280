"""What plan() decides: actions, events and a new status, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from aurl_operator.api.status import FailureClass, JobStatus

Kind = Literal[
    "Pod",
    "Service",
    "ConfigMap",
    "PersistentVolumeClaim",
    "NetworkPolicy",
    "PodGroup.scheduling.volcano.sh",
    "PodGroup.scheduling.x-k8s.io",
]


@dataclass(frozen=True)
class Create:
    """Create an object. That it exists already, owned by the same job, is success."""

    kind: Kind
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the object to create."""
        return str(self.manifest["metadata"]["name"])


@dataclass(frozen=True)
class Patch:
    """Merge-patch an object of the job."""

    kind: Kind
    name: str
    patch: Mapping[str, Any]


@dataclass(frozen=True)
class Delete:
    """Delete an object if it still has this UID; `force` without waiting for its node."""

    kind: Kind
    name: str
    uid: str
    force: bool = False


@dataclass(frozen=True)
class DeleteJob:
    """Delete the job itself, if it still has this UID (time to live after it finished)."""

    name: str
    uid: str


Action = Create | Patch | Delete | DeleteJob


@dataclass(frozen=True)
class Event:
    """Something to tell the user in `kubectl describe`, once."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


#: How the API server tells that nothing more can be created in a namespace.
ENDING: Final = "because it is being terminated"


@dataclass(frozen=True)
class Refusal:
    """The API server's latest refusal to create one object."""

    code: int
    message: str
    time: datetime
    count: int = 1


@dataclass(frozen=True)
class Plan:
    """What to do now.

    status: the status to write, None to leave it alone.
    status_first: write it before the actions, and do not act if that fails.
    requeue_after: seconds until the job must be looked at again even if nothing changes, None for never.
    failed_now, restarted_now: class of the failure that this plan counted, for metrics.
    """

    actions: tuple[Action, ...] = ()
    status: JobStatus | None = None
    status_first: bool = False
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    failed_now: FailureClass | None = None
    restarted_now: FailureClass | None = None
