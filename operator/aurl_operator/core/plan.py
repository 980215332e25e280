"""plan(): everything that the operator decides, as a pure function of what it sees.

Level-triggered: nothing is remembered between calls but what stands in the job's status, and any call may be
the first one after the operator was down. No clock, no IO, no kopf. `_Round.run` is the order of decisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

from aurl_operator.api.spec import MANAGED_BY, JobSpec, RunPolicy
from aurl_operator.api.status import Failure, FailureClass, Launch, Nodes, Role, State
from aurl_operator.core import badnodes, elastic, placement, prerequisites
from aurl_operator.core.acceptance import accept
from aurl_operator.core.actions import Children, Options, Patch, Plan
from aurl_operator.core.budget import decide
from aurl_operator.core.classify import Verdict, judge
from aurl_operator.core.cleanup import after_finish
from aurl_operator.core.conditions import Aspect, Blocker, find
from aurl_operator.core.creation import CLAIM_RECHECK_SECONDS, Creation
from aurl_operator.core.gang import (
    Gang,
    find_gang,
    namespace_ends,
    pod_blocker,
    size_of,
)
from aurl_operator.core.hang import hang, patience, still_since
from aurl_operator.core.names import LABEL_JOB_UID, LABEL_ROLE, job_ref, owner_uid
from aurl_operator.core.objects import (
    config_data,
    dataset_hash,
    spec_hash,
)
from aurl_operator.core.parsers import dig
from aurl_operator.core.podview import pod_view
from aurl_operator.core.problems import Problem
from aurl_operator.core.progress import (
    ProgressReport,
    dataset_sentence,
    read_dataset,
    take_last_words,
    take_poll,
)
from aurl_operator.core.status_reader import is_finished, read_status
from aurl_operator.core.stragglers import read_paces, stragglers
from aurl_operator.core.validation import parse_spec


def plan(
    job: Mapping[str, Any],
    children: Children,
    progress: ProgressReport | None,
    now: datetime,
    options: Options,
) -> Plan:
    """Decide what to do for a job. Never raises, whatever the objects hold; `now` is timezone-aware."""
    who = job_ref(job)
    if who is None or who.deleting or dig(job, "spec", "managedBy") not in (None, MANAGED_BY):
        return Plan()
    if namespace_ends(children.refusals):
        return Plan()  # the job goes as well, and nobody is to be told of failures on the way
    status = read_status(job.get("status"))
    mine = (pod for pod in children.pods if owner_uid(pod) == who.uid)
    pods = [view for pod in mine if (view := pod_view(pod)) is not None]
    spec, problems = parse_spec(job.get("spec"))
    if is_finished(status):
        policy = spec.run_policy if spec else RunPolicy()
        return after_finish(who, status, policy, pods, children.service, now)
    return _Round(who, status, pods, children, progress, now, options).run(spec, problems)


class _Round(Creation):
    """The decisions about an unfinished job."""

    # ------------------------------------------------------------------ the order of decisions

    def run(self, wanted: JobSpec | None, problems: tuple[Problem, ...]) -> Plan:
        """Decide."""
        attempt = max([self.status.attempt, *(pod.attempt for pod in self.pods)])
        self.update(attempt=attempt)
        if wanted is not None:
            self.policy = wanted.run_policy
        started = self.status.start_time is not None
        check = self.options.check_config
        accepted = accept(self.who, wanted, problems, self.children.config_map, started, check)
        if accepted.spec is None:
            return self.fail_user(accepted.reason, accepted.message)
        if accepted.reason:
            self.blocker = Blocker(accepted.reason, accepted.message)
        spec = accepted.spec
        self.policy = spec.run_policy
        self._note_specification(spec)
        self._note_dataset(spec)
        if spec.suspend:
            return self._suspend(spec)
        self._ensure_objects(spec)
        if prerequisites.config_ready(spec, self.children.config_map) and self.status.start_time is None:
            self.update(start_time=self.now)
        launch = self.status.launch
        queued = launch is not None and launch.queued
        if not queued and self.passed(self.status.start_time, self.policy.active_deadline_seconds):
            seconds = self.policy.active_deadline_seconds
            return self.fail("DeadlineExceeded", f"The job was active for more than {seconds} s.", None)
        if self.dataset.status != "True":
            decided = self._keep_gang(spec, "prepare", 1)
            if decided is not None:
                return decided
        size = size_of("worker", self.status.attempt, self.pods) or elastic.target(spec, self.status)
        return self._keep_gang(spec, "worker", size) or self.succeed()

    def _note_specification(self, spec: JobSpec) -> None:
        """Begin a new attempt where the pods were made from another specification.

        That is so only if the ConfigMap, the memory of what was accepted, was deleted under an edited job.
        """
        made_from, digest = self.status.spec_hash, spec_hash(spec)
        started = self.status.start_time is not None and not spec.suspend
        if started and made_from not in (None, digest):
            self.renewed = True
            if any(pod.attempt == self.status.attempt for pod in self.pods):
                self.update(attempt=self.status.attempt + 1, launch=None)
        self.update(spec_hash=digest)

    def _note_dataset(self, spec: JobSpec) -> None:
        """Whether the prepared dataset is the one that is asked for."""
        known = find(self.status.conditions, "DatasetReady")
        prepared = self.status.dataset
        if prerequisites.claim_replaced(spec, self.children, self.status):
            return  # Whatever the new claim holds, the preparation finds out.
        if known and known.status == "True" and prepared and prepared.spec_hash == dataset_hash(spec):
            self.dataset = Aspect("True", known.reason, known.message)
        elif known and known.status == "False":
            self.dataset = Aspect("False", known.reason, known.message)

    # ------------------------------------------------------------------ suspension

    def _suspend(self, spec: JobSpec) -> Plan:
        """Stop all pods. The next start is a new attempt: names and rendezvous are never used twice."""
        if any(pod.attempt == self.status.attempt for pod in self.pods):
            self.update(attempt=self.status.attempt + 1)
        stopped = self.status.start_time is not None or self.status.attempt != self.old.attempt
        self.stop(self.pods)
        nodes = Nodes(desired=spec.num_nodes, ready=0)
        self.update(
            start_time=None, launch=None, nodes=nodes, replicas=0, scheduling=None, elastic_nodes=None
        )
        message = "The job is suspended; set spec.suspend to false to go on from the last checkpoint."
        return self.finish("Suspended", "Suspended", message, status_first=stopped)

    # ------------------------------------------------------------------ what pods need

    def _ensure_objects(self, spec: JobSpec) -> None:
        children, policy = self.children, self.options.network_policy
        for kind, manifest in prerequisites.missing(self.who, spec, children, self.status, policy):
            self.create(kind, manifest)
        if children.config_map is not None and not prerequisites.config_ready(spec, children.config_map):
            name = children.config_map["metadata"]["name"]
            self.actions.append(Patch("ConfigMap", name, {"data": config_data(spec)}))
        lost = prerequisites.own_claim_blocker(self.who, spec, children, self.status)
        self.block(lost, CLAIM_RECHECK_SECONDS)
        self.update(claim_uid=prerequisites.claim_uid(spec, children, self.status))

    # ------------------------------------------------------------------ the gang

    def _keep_gang(self, spec: JobSpec, role: Role, size: int) -> Plan | None:
        """Bring the gang up and keep it; None once all its members have succeeded."""
        gang = find_gang(self.who.name, role, self.status.attempt, size, self.pods)
        ready = gang.ready if role == "worker" else 0
        selector = f"{LABEL_JOB_UID}={self.who.uid},{LABEL_ROLE}=worker"
        replicas = size if role == "worker" else 0
        nodes = Nodes(desired=spec.num_nodes, ready=ready)
        self.update(nodes=nodes, replicas=replicas, selector=selector)
        launch = self.status.launch
        if launch is not None and launch.role != role:
            self.update(launch=None)
            launch = None
        lost = gang.missing_names if launch and launch.created_time else ()
        verdict = judge(tuple(gang.members.values()), lost, role, gang.attempt, self.now)
        if verdict is not None and verdict.settled:
            return self._after_failure(gang, verdict)
        if role == "worker":
            report = self.progress if self.progress and self.progress.attempt == gang.attempt else None
            self.status = take_poll(self.status, report, self.now, self.options.progress_interval)
            self.status = take_last_words(self.status, [p for p in gang.members.values() if p.index == 0])
            self._note_stragglers(gang, spec, report)
            if verdict is None and gang.up and not gang.succeeded:
                stuck = self._hang(report)
                if stuck is not None:
                    return self._after_failure(gang, Verdict(stuck, settled=True))
        if gang.succeeded:
            if role == "prepare":
                self._dataset_prepared(gang, spec)
            return None
        self.stop(gang.stale)
        if verdict is None:
            moved = self._move(gang, spec)
            if moved is not None:
                return moved
        if verdict is not None:
            self.wake(0.5)
        elif gang.missing and not gang.stale:
            refused = self.fill(gang, spec)
            if refused is not None:
                return refused
        return self._report_gang(gang, unclear=verdict is not None)

    def _note_stragglers(self, gang: Gang, spec: JobSpec, report: ProgressReport | None) -> None:
        paces = read_paces(report, gang.size * spec.num_proc_per_node)
        nodes = {index: pod.node for index, pod in gang.members.items()}
        known, factor = self.status.stragglers, self.policy.straggler_factor
        if paces is not None:
            found = stragglers(paces, factor, known, nodes, spec.num_proc_per_node, self.now)
            self.update(stragglers=found)

    def _hang(self, report: ProgressReport | None) -> Failure | None:
        """Whether the running gang stands still for longer than it may."""
        if not self.passed(still_since(self.status), patience(self.policy.hang_deadline_seconds)):
            return None
        self.wake(self.options.progress_interval)  # until there is a fresh report
        return hang(self.status, report, self.status.attempt, self.now, self.options.progress_interval)

    def _move(self, gang: Gang, spec: JobSpec) -> Plan | None:
        """Resize the gang or release a partly placed one; otherwise maintain the placeholder pods."""
        if gang.role != "worker":
            return None
        for decide_move in (elastic.resize, partial(placement.release, self.who.uid)):
            move, wake = decide_move(spec, self.status, gang, self.now)
            self.wake(wake)
            if move is not None:
                self.update(**move.changes)
                return self._begin_anew(gang, move.reason, move.message)
        indexes, wake = elastic.placeholders(spec, self.status, gang, self.now)
        self.wake(wake)
        self.stop(pod for pod in gang.placeholders if pod.index not in indexes)
        there = {pod.index for pod in gang.placeholders}
        return self.create_pods(
            self.common(gang, spec, "placeholder"), (index for index in indexes if index not in there), spec
        )

    def _startup_overdue(self) -> Plan | None:
        """Fail a job that did not run within its start-up deadline; released tries count from the first."""
        launch, limit = self.status.launch, self.policy.startup_deadline_seconds
        if launch is not None and (launch.running_time is not None or launch.queued):
            return None
        scheduling = self.status.scheduling
        since = scheduling.since if scheduling else launch.start_time if launch else None
        if not self.passed(since, limit):
            return None
        known = (self.blocker, scheduling)
        why = next((each.message for each in known if each), "The pods did not all run.")
        return self.fail("StartupDeadlineExceeded", f"Not running after {limit} s: {why}", None)

    def _report_gang(self, gang: Gang, unclear: bool) -> Plan:
        """Record how far the gang has come and what keeps it, and enforce the start-up deadline.

        unclear: a member failed, but why is not known yet; the job stays in its state for that moment.
        """
        launch = self.status.launch
        if gang.members and launch is None:
            launch = Launch(role=gang.role, start_time=self.now, avoided_nodes=self.avoided_nodes())
        if launch is not None and not gang.missing and launch.created_time is None:
            launch = launch.model_copy(update={"created_time": self.now})
        if launch is not None and gang.up and launch.running_time is None:
            launch = launch.model_copy(update={"running_time": self.now})
            self.update(scheduling=None)
        queued = any(pod.gated for pod in gang.members.values())
        if launch is not None and queued != launch.queued:
            # No deadline runs while a queue holds the job back.
            launch = launch.model_copy(update={"queued": queued, "start_time": self.now})
            self.update(start_time=self.now)
        self.update(launch=launch)
        members = tuple(gang.members.values())
        if launch is not None and launch.avoided_nodes:
            nodes = launch.avoided_nodes
            wait = badnodes.seconds_until_reuse(members, nodes, launch.created_time, self.now)
            if wait == 0:
                self.update(node_failures=badnodes.reuse(self.status.node_failures, nodes))
                message = (
                    f"No other node has room, so {', '.join(nodes)} may be used in spite of its failures."
                )
                return self._begin_anew(gang, "AvoidedNodeReused", message)
            self.wake(wait)
        if not members:
            self.block(*placement.waiting(self.status, self.now))
        blocker, wake = pod_blocker(members, self.now)
        self.block(blocker)
        self.wake(wake)
        overdue = self._startup_overdue()
        if overdue is not None:
            return overdue
        ran = launch is not None and launch.running_time is not None
        state, message = self._state_of(gang, up=gang.up or (unclear and ran))
        if gang.role == "prepare" and gang.members:
            self.dataset = Aspect("False", "Preparing", message)
        failure = self.status.last_failure if state == "Restarting" else None
        return self.finish(state, (failure and failure.reason) or state, message)

    def _state_of(self, gang: Gang, up: bool) -> tuple[State, str]:
        workers = gang.role == "worker"
        if workers and up:
            return "Running", f"Attempt {gang.attempt} runs on {gang.size} node(s)."
        if gang.members:
            if not workers:
                return "Preparing", f"Pod {gang.members[0].name} prepares the dataset."
            running = sum(pod.phase == "Running" for pod in gang.members.values())
            return "Starting", f"Attempt {gang.attempt} is starting: {running} of {gang.size} pods run."
        failure = self.status.last_failure
        if self.status.restarts.total and failure and failure.attempt == gang.attempt - 1:
            message = f"Restart {self.status.restarts.total} is under way: {failure.message}"
            return "Restarting", message
        if workers:
            return "Starting", f"The {gang.size} worker pod(s) of attempt {gang.attempt} are being created."
        return "Pending", "The job's volume, configuration and first pod are being created."

    def _dataset_prepared(self, gang: Gang, spec: JobSpec) -> None:
        ended = gang.members[0].terminated
        dataset = read_dataset(ended.report if ended else {}, dataset_hash(spec))
        self.dataset = Aspect("True", "Prepared", dataset_sentence(dataset))
        restarts = self.status.restarts.model_copy(update={"consecutive": 0})
        self.update(dataset=dataset, launch=None, restarts=restarts)

    # ------------------------------------------------------------------ the end, or another attempt

    def _after_failure(self, gang: Gang, verdict: Verdict) -> Plan:
        if gang.role == "worker":
            self.status = take_last_words(self.status, gang.members.values())
        saved = self.status.last_checkpoint
        failure = verdict.failure.model_copy(update={"checkpoint_step": saved.step if saved else None})
        decision = decide(self.status, failure, self.policy, self.now)
        nodes = badnodes.note(self.status.node_failures, failure, self.policy.node_avoidance, self.now)
        self.update(restarts=decision.restarts, node_failures=nodes)
        if gang.role == "prepare":
            self.dataset = Aspect("False", failure.reason, failure.message)
        if decision.give_up_reason:
            return self.fail(decision.give_up_reason, decision.give_up_message, failure)
        self.update(last_failure=failure)
        message = f"Restart {decision.restarts.total} is under way: {failure.message}"
        return self._begin_anew(gang, failure.reason, message, failure.failure_class)

    def _begin_anew(
        self, gang: Gang, reason: str, message: str, restarted: FailureClass | None = None
    ) -> Plan:
        """End an attempt; its successor is made once all of its pods are gone.

        Survivors are not trusted to leave by themselves: every pod of the attempt goes.
        """
        self.stop(self.pods)
        nodes = Nodes(desired=self.status.nodes.desired, ready=0)
        self.update(attempt=gang.attempt + 1, launch=None, nodes=nodes, stragglers=[])
        return self.finish("Restarting", reason, message, status_first=True, restarted=restarted)
