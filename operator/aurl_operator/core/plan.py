"""plan(): every decision of the operator, as a pure function of what it observes.

Level-triggered: the only memory is the job's status, and any call may be the first one after a restart of the
operator. No clock, no IO, no kopf. Steps are listed top-down: plan(), then each step in the order of its use.
A step that returns a Plan ends the decision; None continues with the next step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from aurl_operator.api.spec import MANAGED_BY, JobSpec
from aurl_operator.api.status import Failure, FailureClass, Launch, Nodes, Role, State
from aurl_operator.core import badnodes, elastic, placement, podgroups, prerequisites
from aurl_operator.core.acceptance import Acceptance, accept
from aurl_operator.core.actions import Delete, DeleteJob, Patch, Plan
from aurl_operator.core.budget import decide, earliest_start
from aurl_operator.core.classify import Verdict, judge
from aurl_operator.core.conditions import Aspect, Blocker, find
from aurl_operator.core.gang import Gang, find_gang, is_record, namespace_terminating, pod_blocker, size_of
from aurl_operator.core.hang import detect_hang, hang_deadline, last_advance
from aurl_operator.core.names import LABEL_JOB_UID, LABEL_ROLE
from aurl_operator.core.objects import accepted_spec, config_data, dataset_hash, spec_hash
from aurl_operator.core.observed import Observed
from aurl_operator.core.plan_builder import PlanBuilder
from aurl_operator.core.pods import GangSettings, build_pod
from aurl_operator.core.podsecurity import violations
from aurl_operator.core.progress import (
    apply_report,
    apply_termination_reports,
    dataset_sentence,
    read_dataset,
)
from aurl_operator.core.stragglers import stragglers

#: Seconds until a missing claim is looked up again: it may come from anywhere and is not watched.
CLAIM_RECHECK_SECONDS: Final = 5.0
#: Seconds until a failure whose cause is still unclear is judged again.
_JUDGE_AGAIN_SECONDS: Final = 0.5
_HTTP_INVALID: Final = 422
#: Failures in status.failures.
_REMEMBERED_FAILURES: Final = 10
#: Reasons of failure whose purpose is to stop the pods, regardless of cleanPodPolicy.
_STOPPING: Final = frozenset({"DeadlineExceeded", "StartupDeadlineExceeded"})


def plan(observed: Observed) -> Plan:
    """Decide what to do for a job. Never raises, whatever the objects hold."""
    job = observed.job
    if job.deleting or job.managed_by not in (None, MANAGED_BY):
        return Plan()
    if namespace_terminating(observed.refusals):
        return Plan()  # the job is about to go as well: no failures to report on the way
    if job.finished:
        return clean_up_finished_job(observed)
    accepted = accept_spec(observed)
    builder = PlanBuilder(observed, accepted.spec or job.spec)
    count_attempt(builder)
    if accepted.spec is None:
        return fail_user(builder, accepted.reason, accepted.message)
    if accepted.reason:
        builder.block(Blocker(accepted.reason, accepted.message))
    spec = accepted.spec
    leave_changed_spec(builder, spec)
    recall_dataset(builder, spec)
    if spec.suspend:
        return suspend(builder, spec)
    ensure_prerequisites(builder, spec)
    return (
        enforce_active_deadline(builder)
        or prepare_dataset(builder, spec)
        or train(builder, spec)
        or succeed(builder)
    )


# ---------------------------------------------------------------- the spec and what follows from it


def accept_spec(observed: Observed) -> Acceptance:
    """Decide which spec to follow: a running job keeps the one in its ConfigMap."""
    job, remembered = observed.job, accepted_spec(observed.children.config_map)
    started = job.status.start_time is not None
    return accept(job.ref, job.spec, job.problems, remembered, started, observed.options.check_config)


def count_attempt(builder: PlanBuilder) -> None:
    """Raise the attempt to that of the newest pod, in case the status was lost."""
    builder.update(attempt=max([builder.status.attempt, *(pod.attempt for pod in builder.pods)]))


def leave_changed_spec(builder: PlanBuilder, spec: JobSpec) -> None:
    """Start a new attempt if the pods were made from another spec.

    This happens only if the ConfigMap, which remembers the accepted spec, was deleted under an edited job.
    """
    status, digest = builder.status, spec_hash(spec)
    started = status.start_time is not None and not spec.suspend
    if started and status.spec_hash not in (None, digest):
        builder.status_first = True
        if any(pod.attempt == status.attempt for pod in builder.pods):
            builder.update(attempt=status.attempt + 1, launch=None)
    builder.update(spec_hash=digest)


def recall_dataset(builder: PlanBuilder, spec: JobSpec) -> None:
    """Carry the condition DatasetReady over if it is about the dataset that the spec asks for."""
    known = find(builder.status.conditions, "DatasetReady")
    prepared = builder.status.dataset
    if prerequisites.claim_replaced(spec, builder.children, builder.status):
        return  # the prepare pod finds out whether the new claim holds the dataset
    if known and known.status == "True" and prepared and prepared.spec_hash == dataset_hash(spec):
        builder.dataset = Aspect("True", known.reason, known.message)
    elif known and known.status == "False":
        builder.dataset = Aspect("False", known.reason, known.message)


def suspend(builder: PlanBuilder, spec: JobSpec) -> Plan:
    """Stop all pods. Resuming starts a new attempt: names and rendezvous are never used twice."""
    status = builder.status
    if any(pod.attempt == status.attempt for pod in builder.pods):
        builder.update(attempt=status.attempt + 1)
    if status.start_time is not None or builder.status.attempt != builder.observed.job.status.attempt:
        builder.status_first = True
    stop_all(builder)
    builder.update(
        start_time=None,
        queued_since=None,
        queued_seconds=0,
        launch=None,
        nodes=Nodes(desired=spec.num_nodes, ready=0),
        replicas=0,
        scheduling=None,
        elastic_nodes=None,
    )
    message = "The job is suspended; set spec.suspend to false to resume from the last checkpoint."
    return builder.finish("Suspended", "Suspended", message)


def ensure_prerequisites(builder: PlanBuilder, spec: JobSpec) -> None:
    """Create or correct the ConfigMap, Service, NetworkPolicy and claim, and start the job's clock."""
    children, status = builder.children, builder.status
    wanted_policy = builder.options.network_policy
    for kind, manifest in prerequisites.missing(builder.job, spec, children, status, wanted_policy):
        builder.create(kind, manifest)
    config_ready = prerequisites.config_ready(spec, children.config_map)
    if children.config_map is not None and not config_ready:
        builder.act(Patch("ConfigMap", children.config_map.name, {"data": config_data(spec)}))
    lost = prerequisites.own_claim_blocker(builder.job, spec, children, status)
    builder.block(lost, CLAIM_RECHECK_SECONDS)
    builder.update(claim_uid=prerequisites.claim_uid(spec, children, status))
    if config_ready and status.start_time is None:
        builder.update(start_time=builder.now)


def enforce_active_deadline(builder: PlanBuilder) -> Plan | None:
    """Fail a job that has been active for too long, over all attempts; time in a queue does not count."""
    status, limit = builder.status, builder.policy.active_deadline_seconds
    if limit is None or status.queued_since is not None:
        return None
    if not builder.passed(status.start_time, limit + status.queued_seconds):
        return None
    return fail(builder, "DeadlineExceeded", f"The job was active for more than {limit} s.")


# ---------------------------------------------------------------- the gang


def prepare_dataset(builder: PlanBuilder, spec: JobSpec) -> Plan | None:
    """Run the prepare pod; None once the dataset is ready."""
    return None if builder.dataset.status == "True" else keep_gang(builder, spec, "prepare", 1)


def train(builder: PlanBuilder, spec: JobSpec) -> Plan | None:
    """Run the workers; None once all of them have succeeded."""
    size = size_of("worker", builder.status.attempt, builder.pods) or elastic.target(spec, builder.status)
    return keep_gang(builder, spec, "worker", size)


def keep_gang(builder: PlanBuilder, spec: JobSpec, role: Role, size: int) -> Plan | None:
    """Start a gang and keep it running; None once all its members have succeeded."""
    gang = find_gang(builder.job.name, role, builder.status.attempt, size, builder.pods)
    report_nodes(builder, spec, gang)
    verdict = judge_gang(builder, gang)
    if verdict is not None and verdict.settled:
        return recover(builder, gang, verdict.failure)
    if role == "worker":
        follow_training(builder, spec, gang)
        hung = find_hang(builder, gang) if verdict is None else None
        if hung is not None:
            return recover(builder, gang, hung)
    if gang.succeeded:
        if role == "prepare":
            record_dataset(builder, spec, gang)
        return None
    builder.delete_pods(gang.stale)
    if verdict is not None:
        builder.wake(_JUDGE_AGAIN_SECONDS)
    else:
        decided = (
            resize_or_release(builder, spec, gang)
            or maintain_placeholders(builder, spec, gang)
            or create_missing(builder, spec, gang)
        )
        if decided is not None:
            return decided
    track_queue(builder, gang)
    track_launch(builder, gang)
    return (
        reuse_avoided_nodes(builder, gang)
        or enforce_startup_deadline(builder, spec, gang)
        or report_state(builder, gang, unclear=verdict is not None)
    )


def report_nodes(builder: PlanBuilder, spec: JobSpec, gang: Gang) -> None:
    """Report the numbers of worker pods, and forget the launch of another gang."""
    workers = gang.role == "worker"
    builder.update(
        nodes=Nodes(desired=spec.num_nodes, ready=gang.ready if workers else 0),
        replicas=gang.size if workers else 0,
        selector=f"{LABEL_JOB_UID}={builder.job.uid},{LABEL_ROLE}=worker",
    )
    launch = builder.status.launch
    if launch is not None and launch.role != gang.role:
        builder.update(launch=None)


def judge_gang(builder: PlanBuilder, gang: Gang) -> Verdict | None:
    """Find out why the gang failed, if it did; a member that existed and is gone has failed as well."""
    launch = builder.status.launch
    lost = gang.missing_names if launch and launch.created_time else ()
    return judge(tuple(gang.members.values()), lost, gang.role, gang.attempt, builder.now)


def follow_training(builder: PlanBuilder, spec: JobSpec, gang: Gang) -> None:
    """Copy progress, the newest checkpoint and stragglers into the status."""
    report, interval = builder.observed.report_of(gang.attempt), builder.options.progress_interval
    if report is not None and report.problem:
        message = f"The progress of attempt {gang.attempt} is unknown, because the answer of its launcher "
        builder.block(Blocker("ProgressUnreadable", f"{message}{report.problem}."))
    builder.status = apply_report(builder.status, report, builder.now, interval)
    builder.status = apply_termination_reports(
        builder.status, [p for p in gang.members.values() if p.index == 0]
    )
    times = report.compute_times(gang.size * spec.num_proc_per_node) if report else None
    if times is not None:
        nodes = {index: pod.node for index, pod in gang.members.items()}
        known, factor = builder.status.stragglers, builder.policy.straggler_factor
        found = stragglers(times, factor, known, nodes, spec.num_proc_per_node, builder.now)
        builder.update(stragglers=found)


def find_hang(builder: PlanBuilder, gang: Gang) -> Failure | None:
    """Return a failure if the running gang has made no progress for longer than its deadline."""
    deadline = hang_deadline(builder.policy.hang_deadline_seconds)
    if not gang.up or gang.succeeded or not builder.passed(last_advance(builder.status), deadline):
        return None
    interval = builder.options.progress_interval
    builder.wake(interval)  # a fresh report decides
    return detect_hang(
        builder.status, builder.observed.report_of(gang.attempt), gang.attempt, builder.now, interval
    )


def record_dataset(builder: PlanBuilder, spec: JobSpec, gang: Gang) -> None:
    """Record what the prepare pod reported when it succeeded."""
    ended = gang.members[0].terminated
    dataset = read_dataset(ended.report if ended else {}, dataset_hash(spec))
    builder.dataset = Aspect("True", "Prepared", dataset_sentence(dataset))
    # A pod with a sidecar is about to be deleted, and its report with it.
    builder.status_first = builder.status_first or gang.members[0].lingering
    restarts = builder.status.restarts.model_copy(update={"consecutive": 0})
    builder.update(dataset=dataset, launch=None, restarts=restarts)


# ---------------------------------------------------------------- the size of the gang, and its pods


def resize_or_release(builder: PlanBuilder, spec: JobSpec, gang: Gang) -> Plan | None:
    """Start a new attempt to change the number of nodes, or to free the room of a partly placed gang."""
    if gang.role != "worker":
        return None
    move, wake = elastic.resize(spec, builder.status, gang, builder.now)
    builder.wake(wake)
    if move is None:
        move, wake = placement.release(builder.job.uid, spec, builder.status, gang, builder.now)
        builder.wake(wake)
    if move is None:
        return None
    builder.update(**move.changes)
    return start_next_attempt(builder, gang, move.reason, move.message)


def maintain_placeholders(builder: PlanBuilder, spec: JobSpec, gang: Gang) -> Plan | None:
    """Keep as many placeholder pods as the job could use nodes in addition."""
    wanted, wake = elastic.placeholders(spec, builder.status, gang, builder.now)
    builder.wake(wake)
    builder.delete_pods(pod for pod in gang.placeholders if pod.index not in wanted)
    existing = {p.index for p in builder.pods if (p.role, p.attempt) == ("placeholder", gang.attempt)}
    missing = [index for index in wanted if index not in existing]
    return create_pods(builder, spec, gang, "placeholder", missing)


def create_missing(builder: PlanBuilder, spec: JobSpec, gang: Gang) -> Plan | None:
    """Create the missing members of the gang once everything they need is there."""
    if not gang.missing or gang.stale:
        return None
    if not gang.members:
        if placement.waiting(builder.status, builder.now)[0] is not None:
            return None
        earliest = earliest_start(builder.status)
        if earliest is not None and earliest > builder.now:
            builder.wake((earliest - builder.now).total_seconds())
            return None
    if builder.status.launch is None:
        builder.update(launch=new_launch(builder, gang.role))
    children, network_policy = builder.children, builder.options.network_policy
    unusable = prerequisites.named_claim_blocker(builder.job, spec, children)
    builder.block(unusable, CLAIM_RECHECK_SECONDS)
    lost = prerequisites.own_claim_blocker(builder.job, spec, children, builder.status)
    if unusable or lost or not prerequisites.ready(spec, children, network_policy):
        return None
    if not ensure_pod_group(builder, spec, gang):
        return None
    return create_pods(builder, spec, gang, gang.role, gang.missing)


def new_launch(builder: PlanBuilder, role: Role) -> Launch:
    """Return the launch of a gang that starts now."""
    policy = builder.policy.node_avoidance
    nodes = badnodes.avoided(builder.status.node_failures, policy, builder.now)
    return Launch(role=role, start_time=builder.now, avoided_nodes=list(nodes))


def ensure_pod_group(builder: PlanBuilder, spec: JobSpec, gang: Gang) -> bool:
    """Create the attempt's PodGroup if its scheduler wants one, delete older ones; True once it exists."""
    wanted = podgroups.pod_group(builder.job, spec, gang.attempt, gang.size)
    if wanted is None or gang.role != "worker":
        return True
    kind, manifest = wanted
    known = {group.name: group for group in builder.children.pod_groups}
    exists = known.pop(manifest["metadata"]["name"], None) is not None
    builder.delete(*(Delete(kind, old.name, old.uid) for old in known.values()))
    if not exists:
        builder.create(kind, manifest)
    return exists


def create_pods(
    builder: PlanBuilder, spec: JobSpec, gang: Gang, role: Role, indexes: Iterable[int]
) -> Plan | None:
    """Create pods; fail the job if the API server can never accept them."""
    children, options, launch = builder.children, builder.options, builder.status.launch
    settings = GangSettings(
        role=role,
        attempt=gang.attempt,
        size=gang.size,
        image=spec.image or options.image,
        image_pull_policy=options.image_pull_policy,
        service_ip=children.service.address if children.service else "",
        out_of_memory_restarts=builder.status.restarts.by_class.get("OutOfMemory", 0),
        avoided_nodes=tuple(launch.avoided_nodes) if launch else (),
        one_node=prerequisites.one_node(spec, children),
    )
    for index in indexes:
        pod = build_pod(builder.job, spec, settings, index)
        broken = violations(pod)
        if broken:
            message = f"The pods would violate the Pod Security Standard 'restricted': {'; '.join(broken)}."
            return fail_user(builder, "PodNotRestricted", message)
        refusal = builder.observed.refusals.get(pod["metadata"]["name"])
        if refusal is not None and refusal.code == _HTTP_INVALID:
            message = f"The API server rejects the pods as invalid: {refusal.message.rstrip('. ')}."
            return fail_user(builder, "InvalidPod", message)
        builder.create("Pod", pod)
    return None


# ---------------------------------------------------------------- how far the gang has come


def track_queue(builder: PlanBuilder, gang: Gang) -> None:
    """Keep count of the time that a queue holds the pods back."""
    since, queued = builder.status.queued_since, gang.queued
    if queued and since is None:
        builder.update(queued_since=builder.now)
    elif since is not None and not queued:
        waited = max(0, round((builder.now - since).total_seconds()))
        builder.update(queued_since=None, queued_seconds=builder.status.queued_seconds + waited)


def track_launch(builder: PlanBuilder, gang: Gang) -> None:
    """Record when the gang was started, was complete, and ran; restart its clock when a queue admits it."""
    launch = builder.status.launch
    if gang.members and launch is None:
        launch = new_launch(builder, gang.role)
    if launch is None:
        return
    if not gang.missing and launch.created_time is None:
        launch = launch.model_copy(update={"created_time": builder.now})
    if gang.up and launch.running_time is None:
        launch = launch.model_copy(update={"running_time": builder.now})
        builder.update(scheduling=None)
    if gang.queued != launch.queued:
        launch = launch.model_copy(update={"queued": gang.queued, "start_time": builder.now})
    builder.update(launch=launch)


def reuse_avoided_nodes(builder: PlanBuilder, gang: Gang) -> Plan | None:
    """Start a new attempt without node avoidance if the pods fit nowhere else."""
    launch = builder.status.launch
    if launch is None or not launch.avoided_nodes:
        return None
    nodes, members = launch.avoided_nodes, tuple(gang.members.values())
    wait = badnodes.seconds_until_reuse(members, nodes, launch.created_time, builder.now)
    if wait != 0:
        builder.wake(wait)
        return None
    builder.update(node_failures=badnodes.reuse(builder.status.node_failures, nodes))
    message = f"No other node has room, so {', '.join(nodes)} may be used again despite earlier failures."
    return start_next_attempt(builder, gang, "AvoidedNodeReused", message)


def enforce_startup_deadline(builder: PlanBuilder, spec: JobSpec, gang: Gang) -> Plan | None:
    """Note what blocks the pods, and fail a job that took too long to start.

    The deadline covers all attempts to place the gang, and stops while a queue holds it.
    """
    if not gang.members:
        builder.block(*placement.waiting(builder.status, builder.now))
    blocker, wake = pod_blocker(tuple(gang.members.values()), builder.observed.server_time)
    builder.block(blocker)
    builder.wake(wake)
    launch, limit = builder.status.launch, builder.policy.startup_deadline_seconds
    if launch is not None and not gang.up and not gang.queued:
        blocker, wake = prerequisites.pending_claim_blocker(
            builder.job, spec, builder.children, launch.created_time, builder.now
        )
        builder.block(blocker)
        builder.wake(wake)
    if launch is not None and (launch.running_time is not None or launch.queued):
        return None
    scheduling = builder.status.scheduling
    since = scheduling.since if scheduling else launch.start_time if launch else None
    if not builder.passed(since, limit):
        return None
    known = (builder.blocker, scheduling)
    why = next((each.message for each in known if each), "The pods did not all run.")
    return fail(builder, "StartupDeadlineExceeded", f"Not running after {limit} s: {why}")


def report_state(builder: PlanBuilder, gang: Gang, unclear: bool) -> Plan:
    """Report the state of the job.

    unclear: a member failed and the cause is not known yet; until then a running job stays in its state.
    """
    launch = builder.status.launch
    ran = launch is not None and launch.running_time is not None
    state, message = state_of(builder, gang, up=gang.up or (unclear and ran))
    if gang.role == "prepare" and gang.members:
        builder.dataset = Aspect("False", "Preparing", message)
    failure = builder.status.last_failure if state == "Restarting" else None
    return builder.finish(state, (failure and failure.reason) or state, message)


def state_of(builder: PlanBuilder, gang: Gang, up: bool) -> tuple[State, str]:
    """Return the state of an unfinished job and a sentence about it."""
    workers, restarts, failure = gang.role == "worker", builder.status.restarts, builder.status.last_failure
    if workers and up:
        return "Running", f"Attempt {gang.attempt} is running on {gang.size} node(s)."
    if gang.members and not workers:
        return "Preparing", f"Pod {gang.members[0].name} is preparing the dataset."
    if gang.members:
        running = sum(pod.phase == "Running" for pod in gang.members.values())
        return "Starting", f"Attempt {gang.attempt} is starting: {running} of {gang.size} pods are running."
    if restarts.total and failure and failure.attempt == gang.attempt - 1:
        return "Restarting", f"Restart {restarts.total} is in progress: {failure.message}"
    if workers:
        return "Starting", f"The {gang.size} worker pod(s) of attempt {gang.attempt} are being created."
    return "Pending", "The job's volume, configuration and first pod are being created."


# ---------------------------------------------------------------- the next attempt, or the end


def recover(builder: PlanBuilder, gang: Gang, failure: Failure) -> Plan:
    """Restart the gang after a failure, or fail the job if its budget is spent."""
    if gang.role == "worker":
        builder.status = apply_termination_reports(builder.status, gang.members.values())
    saved = builder.status.last_checkpoint
    failure = failure.model_copy(update={"checkpoint_step": saved.step if saved else None})
    decision = decide(builder.status, failure, builder.policy, builder.now)
    avoidance = builder.policy.node_avoidance
    nodes = badnodes.record(builder.status.node_failures, failure, avoidance, builder.now)
    builder.update(restarts=decision.restarts, node_failures=nodes)
    if gang.role == "prepare":
        builder.dataset = Aspect("False", failure.reason, failure.message)
    if decision.give_up_reason:
        return fail(builder, decision.give_up_reason, decision.give_up_message, failure)
    remember(builder, failure)
    message = f"Restart {decision.restarts.total} is in progress: {failure.message}"
    return start_next_attempt(builder, gang, failure.reason, message, failure.failure_class)


def remember(builder: PlanBuilder, failure: Failure) -> None:
    """Record a failure, and keep the latest ones."""
    failures = [failure, *builder.status.failures][:_REMEMBERED_FAILURES]
    builder.update(last_failure=failure, failures=failures)


def start_next_attempt(
    builder: PlanBuilder, gang: Gang, reason: str, message: str, restarted: FailureClass | None = None
) -> Plan:
    """End an attempt; the next one is created once all pods are gone. Survivors are deleted as well."""
    stop_all(builder)
    nodes = Nodes(desired=builder.status.nodes.desired, ready=0)
    builder.update(attempt=gang.attempt + 1, launch=None, nodes=nodes, stragglers=[])
    builder.status_first = True
    return builder.finish("Restarting", reason, message, restarted=restarted)


def stop_all(builder: PlanBuilder) -> None:
    """Delete all pods but those kept for their log."""
    builder.delete_pods(pod for pod in builder.pods if not is_record(pod))


def succeed(builder: PlanBuilder) -> Plan:
    """Report success."""
    progress = builder.status.progress
    steps = f" after {progress.step} steps" if progress and progress.step is not None else ""
    return end(builder, "Succeeded", "Succeeded", f"Training finished{steps}.")


def fail(builder: PlanBuilder, reason: str, message: str, failure: Failure | None = None) -> Plan:
    """Fail the job for good."""
    if failure is not None:
        remember(builder, failure)
    return end(builder, "Failed", reason, message, failure.failure_class if failure else "Unknown")


def fail_user(builder: PlanBuilder, reason: str, message: str) -> Plan:
    """Fail the job for good because of its spec."""
    failure = Failure(failure_class="UserError", reason=reason, message=message, time=builder.now)
    return fail(builder, reason, message, failure)


def end(
    builder: PlanBuilder, state: State, reason: str, message: str, failed: FailureClass | None = None
) -> Plan:
    """Report that the job has finished, and clean up. What was about to be created no longer is."""
    builder.actions = [action for action in builder.actions if isinstance(action, Delete)]
    nodes = Nodes(desired=builder.status.nodes.desired, ready=0)
    builder.update(completion_time=builder.now, nodes=nodes, replicas=0)
    clean_up(builder, reason)
    builder.blocker = None
    builder.wake(builder.policy.ttl_seconds_after_finished)
    builder.status_first = True
    return builder.finish(state, reason, message, failed=failed)


def clean_up_finished_job(observed: Observed) -> Plan:
    """Clean up, and delete the job after ttlSecondsAfterFinished. Nothing is ever created here."""
    job = observed.job
    builder = PlanBuilder(observed, job.spec)
    failed = find(job.status.conditions, "Failed")
    clean_up(builder, failed.reason if failed and failed.status == "True" else "")
    completed = job.status.completion_time
    if builder.passed(completed, builder.policy.ttl_seconds_after_finished):
        claim = builder.children.claim
        kept = claim.name if claim and builder.policy.clean_claim_policy == "Retain" else None
        builder.act(DeleteJob(job.ref.name, job.ref.uid, kept))
    builder.update(observed_generation=job.generation)
    return builder.build()


def clean_up(builder: PlanBuilder, reason: str) -> None:
    """Delete the pods that cleanPodPolicy names, those that only a sidecar keeps running, and the Service."""
    policy, service = builder.policy.clean_pod_policy, builder.children.service
    running = policy == "Running" or reason in _STOPPING
    builder.delete_pods(
        pod
        for pod in builder.pods
        if policy == "All" or (running and not pod.over) or pod.lingering or pod.role == "placeholder"
    )
    if service is not None and service.name and not service.deleting:
        builder.delete(Delete("Service", service.name, service.uid))
