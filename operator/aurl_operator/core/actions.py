"""What plan() decides: actions, events and a new status, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Final, Literal

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
    """Create an object. An existing one that the same job owns counts as success."""

    kind: Kind
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the object."""
        return str(self.manifest["metadata"]["name"])

    @property
    def key(self) -> str:
        """The key of its refusals."""
        return self.name


@dataclass(frozen=True)
class Patch:
    """Merge-patch an object of the job."""

    kind: Kind
    name: str
    patch: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The key of its refusals."""
        return f"patch {self.name}"


@dataclass(frozen=True)
class Delete:
    """Delete an object if it still has this UID; with `force`, without waiting for its node."""

    kind: Kind
    name: str
    uid: str
    force: bool = False

    @property
    def key(self) -> str:
        """The key of its refusals."""
        return f"delete {self.uid}"


@dataclass(frozen=True)
class DeleteJob:
    """Delete the job itself if it still has this UID (ttlSecondsAfterFinished).

    kept_claim: a claim that must outlive it, and therefore stops being owned by it first.
    """

    name: str
    uid: str
    kept_claim: str | None = None
    kind: ClassVar[Literal["Job"]] = "Job"

    @property
    def key(self) -> str:
        """The key of its refusals."""
        return f"delete {self.uid}"


Action = Create | Patch | Delete | DeleteJob


@dataclass(frozen=True)
class Event:
    """A Kubernetes Event about the job, shown by `kubectl describe`."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


#: Part of the API server's refusal to create objects in a namespace that is being deleted.
NAMESPACE_TERMINATING: Final = "because it is being terminated"


@dataclass(frozen=True)
class Refusal:
    """The API server's latest refusal of one action, or its failure to answer (code 0).

    retry_after: seconds to wait that the API server asked for.
    """

    code: int
    message: str
    time: datetime
    count: int = 1
    retry_after: float = 0.0

    @property
    def server_fault(self) -> bool:
        """True if the API server, or something it depends on, failed; False if it judged the request."""
        return self.code in (0, 429) or self.code >= 500


@dataclass(frozen=True)
class Plan:
    """What to do now, and what to report.

    status: the status to write; None: leave it alone.
    status_first: write it before the actions, and skip them if that fails.
    requeue_after: seconds until the next reconciliation if nothing changes; None: never.
    failed_now, restarted_now: class of the failure that this plan acts on, for metrics.
    """

    actions: tuple[Action, ...] = ()
    status: JobStatus | None = None
    status_first: bool = False
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    failed_now: FailureClass | None = None
    restarted_now: FailureClass | None = None
