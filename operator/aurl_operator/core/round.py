"""What one call of plan() gathers: actions, the new status, the next wake-up, and how they become a Plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from aurl_operator.api.spec import RunPolicy
from aurl_operator.api.status import Failure, FailureClass, JobStatus, Nodes, State
from aurl_operator.core.actions import Action, Children, Create, Delete, Kind, Options, Plan
from aurl_operator.core.cleanup import clean_up
from aurl_operator.core.conditions import Aspect, Blocker, derive, merge
from aurl_operator.core.gang import dismiss, is_record, refusal_blocker, retry_at
from aurl_operator.core.names import JobRef
from aurl_operator.core.podview import PodView
from aurl_operator.core.progress import ProgressReport
from aurl_operator.core.transitions import transitions


class Round:
    """One look at an unfinished job. Subclasses decide; this class keeps the books."""

    def __init__(
        self,
        who: JobRef,
        status: JobStatus,
        pods: list[PodView],
        children: Children,
        progress: ProgressReport | None,
        now: datetime,
        options: Options,
    ) -> None:
        self.who, self.old, self.status = who, status, status
        self.pods, self.children, self.progress = pods, children, progress
        self.now, self.options = now, options
        self.actions: list[Action] = []
        self.blocker: Blocker | None = None
        self.wakes: list[float] = []
        self.dataset = Aspect("Unknown", "NotPrepared", "The dataset has not been prepared yet.")
        self.policy = RunPolicy()
        self.renewed = False

    # ---------------------------------------------------------------- books

    def update(self, **changes: Any) -> None:
        """Change fields of the new status."""
        self.status = self.status.model_copy(update=changes)

    def block(self, blocker: Blocker | None, recheck: float | None = None) -> None:
        """Note what stands in the way; the first one is told. `recheck`: seconds until to look again."""
        if blocker is not None:
            self.blocker = self.blocker or blocker
            self.wake(recheck)

    def wake(self, seconds: float | None) -> None:
        """Look again after so many seconds; the earliest wish counts."""
        if seconds is not None:
            self.wakes.append(max(seconds, 0.05))

    def passed(self, since: datetime | None, seconds: int | None) -> bool:
        """Whether a deadline has passed; if not, wakes the job at that time."""
        if since is None or seconds is None:
            return False
        left = seconds - (self.now - since).total_seconds()
        if left > 0:
            self.wake(left)
        return left <= 0

    # ---------------------------------------------------------------- actions

    def create(self, kind: Kind, manifest: Mapping[str, Any]) -> None:
        """Create an object, unless it was refused a moment ago; a refusal is told until it is cured."""
        name = manifest["metadata"]["name"]
        refusal = self.children.refusals.get(name)
        if refusal is not None:
            self.block(refusal_blocker(kind, name, refusal))
            wait = (retry_at(refusal) - self.now).total_seconds()
            if wait > 0:
                self.wake(wait)
                return
        self.actions.append(Create(kind, manifest))

    def stop(self, pods: Iterable[PodView]) -> None:
        """Have pods go; a prepare pod that did its work stays for its log."""
        deletions, wake = dismiss([pod for pod in pods if not is_record(pod)], self.now)
        self.actions += deletions
        self.wake(wake)

    # ---------------------------------------------------------------- the end of the round, or of the job

    def finish(
        self,
        state: State,
        reason: str,
        message: str,
        *,
        status_first: bool = False,
        restarted: FailureClass | None = None,
        failed: FailureClass | None = None,
    ) -> Plan:
        """The plan; `reason` and `message` explain the state."""
        aspects = derive(state, reason, message, self.dataset, self.blocker)
        conditions = merge(self.old.conditions, aspects, self.who.generation, self.now)
        self.update(state=state, conditions=conditions, observed_generation=self.who.generation)
        return Plan(
            actions=tuple(self.actions),
            status=self.status,
            status_first=status_first or self.renewed,
            events=transitions(self.old, self.status),
            requeue_after=min(self.wakes, default=None),
            failed_now=failed,
            restarted_now=restarted,
        )

    def succeed(self) -> Plan:
        """The job is done."""
        progress = self.status.progress
        steps = f" after {progress.step} steps" if progress and progress.step is not None else ""
        return self._end("Succeeded", "Succeeded", f"The training is complete{steps}.", None)

    def fail(self, reason: str, message: str, failure: Failure | None) -> Plan:
        """The job is given up."""
        if failure is not None:
            self.update(last_failure=failure)
        return self._end("Failed", reason, message, failure.failure_class if failure else "Unknown")

    def fail_user(self, reason: str, message: str) -> Plan:
        """The job is given up for what its user wrote."""
        failure = Failure(failure_class="UserError", reason=reason, message=message, time=self.now)
        return self.fail(reason, message, failure)

    def _end(self, state: State, reason: str, message: str, failed: FailureClass | None) -> Plan:
        self.blocker = None
        nodes = Nodes(desired=self.status.nodes.desired, ready=0)
        self.update(completion_time=self.now, nodes=nodes, replicas=0)
        ended = [action for action in self.actions if isinstance(action, Delete)]
        self.actions = [*ended]
        cleaning, wake = clean_up(self.policy, reason, self.pods, self.children.service, self.now)
        self.actions += [action for action in cleaning if action not in ended]
        self.wake(wake)
        self.wake(self.policy.ttl_seconds_after_finished)
        return self.finish(state, reason, message, status_first=True, failed=failed)
