"""Collects the decisions of plan() and turns them into a Plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from aurl_operator.api.spec import JobSpec, RunPolicy
from aurl_operator.api.status import FailureClass, State
from aurl_operator.core.actions import Action, Create, Delete, Kind, Plan
from aurl_operator.core.conditions import Aspect, Blocker, derive, merge
from aurl_operator.core.gang import dismiss, refusal_blocker, retry_at
from aurl_operator.core.observed import Observed
from aurl_operator.core.podview import PodView
from aurl_operator.core.transitions import transitions


class PlanBuilder:
    """The plan so far: actions, new status, blocker and wake-ups. It decides nothing itself.

    policy: the run policy of the spec that the job follows. dataset: the condition DatasetReady.
    status_first: see Plan.
    """

    def __init__(self, observed: Observed, spec: JobSpec | None) -> None:
        self.observed, self.policy = observed, spec.run_policy if spec else RunPolicy()
        self.job, self.now, self.options = observed.job.ref, observed.now, observed.options
        self.children, self.pods = observed.children, observed.children.pods
        self.status = observed.job.status
        self.actions: list[Action] = []
        self.blocker: Blocker | None = None
        self.dataset = Aspect("Unknown", "NotPrepared", "The dataset has not been prepared yet.")
        self.status_first = False
        self._wakes: list[float] = []
        self._probing = False

    def update(self, **changes: Any) -> None:
        """Change fields of the new status."""
        self.status = self.status.model_copy(update=changes)

    def block(self, blocker: Blocker | None, recheck: float | None = None) -> None:
        """Note what blocks the job; the first blocker is reported. `recheck`: seconds until the next look."""
        if blocker is not None:
            self.blocker = self.blocker or blocker
            self.wake(recheck)

    def wake(self, seconds: float | None) -> None:
        """Reconcile again after this many seconds at the latest; None: no wish."""
        if seconds is not None:
            self._wakes.append(max(seconds, 0.05))

    def passed(self, since: datetime | None, seconds: int | None) -> bool:
        """True if a deadline has passed; otherwise wake the job when it does."""
        if since is None or seconds is None:
            return False
        left = seconds - (self.now - since).total_seconds()
        if left > 0:
            self.wake(left)
        return left <= 0

    def act(self, action: Action) -> None:
        """Take an action once, but retry one that the API server refused only after its back-off.

        After a fault of the server a single action is retried; once it succeeds, all are.
        """
        refusal = self.observed.refusals.get(action.key)
        if refusal is not None:
            self.block(refusal_blocker(action, refusal))
            wait = (retry_at(refusal) - self.now).total_seconds()
            if wait > 0:
                self.wake(wait)
                return
            if refusal.server_fault and self._probing:
                return
            self._probing = self._probing or refusal.server_fault
        if action not in self.actions:
            self.actions.append(action)

    def create(self, kind: Kind, manifest: Mapping[str, Any]) -> None:
        """Create an object."""
        self.act(Create(kind, manifest))

    def delete(self, *deletions: Delete) -> None:
        """Delete objects."""
        for deletion in deletions:
            self.act(deletion)

    def delete_pods(self, pods: Iterable[PodView]) -> None:
        """Delete pods, by force those that are overdue."""
        deletions, wake = dismiss(list(pods), self.observed.server_time)
        self.delete(*deletions)
        self.wake(wake)

    def build(self, failed: FailureClass | None = None, restarted: FailureClass | None = None) -> Plan:
        """Return the plan with the status as it is now."""
        return Plan(
            actions=tuple(self.actions),
            status=self.status,
            status_first=self.status_first,
            events=transitions(self.observed.job.status, self.status),
            requeue_after=min(self._wakes, default=None),
            failed_now=failed,
            restarted_now=restarted,
        )

    def finish(
        self,
        state: State,
        reason: str,
        message: str,
        failed: FailureClass | None = None,
        restarted: FailureClass | None = None,
    ) -> Plan:
        """Set the state, the conditions that explain it, and return the plan."""
        job = self.observed.job
        aspects = derive(state, reason, message, self.dataset, self.blocker)
        conditions = merge(job.status.conditions, aspects, job.generation, self.now)
        self.update(state=state, conditions=conditions, observed_generation=job.generation)
        return self.build(failed, restarted)
