"""Finds the root cause among the pods of a failed gang, and its class, which decides what happens next.

A failing rank breaks the connections of its peers, so the pod that is seen first is not always the cause.
Evidence is ranked: definite causes and what the platform did to a pod come first, ordered by time, then
possible consequences, and last the lost connections, which only point to another rank.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from signal import Signals
from typing import Final, get_args

from aurl_operator.api.status import Failure, FailureClass, Role
from aurl_operator.api.trainer_contract import (
    EXIT_CODES,
    FAILED,
    INTERRUPTED,
    INTERRUPTED_EXIT_CODE,
    ProgressKey,
    TerminationKey,
)
from aurl_operator.core.parsers import integer, text
from aurl_operator.core.podview import CONTAINER, PodView, Terminated

CLASSES: Final[tuple[FailureClass, ...]] = get_args(FailureClass)
DEFINITE: Final = frozenset({"UserError", "OutOfMemory", "Divergence", "Hardware"})

#: Seconds to wait for a better cause while only consequences are known and some members still run.
SETTLE_SECONDS = 2.0

SIGKILL = 9
#: Reasons that scheduler and kubelet give when a pod makes room for one of higher priority.
_PREEMPTED: Final = frozenset(
    {"PreemptionByScheduler", "PreemptionByKubeScheduler", "Preempting", "Preempted", "StoppedByQueue"}
)
#: Without 137: SIGKILL from outside gives it as well, and the kubelet reports the memory limit (OOMKilled).
_EXIT_CLASSES: Final[dict[int, FailureClass]] = {
    code: name for name, code in EXIT_CODES.items() if name != "OutOfMemory"
}
#: What the kubelet says of a pod that it evicts because of the pod's own limit, and not of its node.
_OWN_VOLUME: Final = re.compile(r'Usage of EmptyDir volume "([^"]*)" exceeds the limit')
_OWN_DISK: Final = re.compile(
    "Pod ephemeral local storage usage exceeds the total limit"
    f"|Container {CONTAINER} exceeded its local ephemeral storage limit"
)
_CURES: Final[dict[str, str]] = {
    "OutOfMemory": "raise spec.resourcesPerNode.limits.memory or use a smaller batch",
}

#: Strength of evidence: the lowest value wins, among equals the earliest.
_CERTAIN, _VANISHED, _STANDSTILL, _REPORTED, _GUESSED, _SYMPTOM = range(6)


@dataclass(frozen=True)
class Cause:
    """A candidate for the root cause; the lowest `strength` wins, then the earliest `time`.

    timed: False if `time` is only when the operator looked: nothing can be waited for from there.
    """

    failure: Failure
    strength: int
    time: datetime
    timed: bool = True


@dataclass(frozen=True)
class Verdict:
    """The root cause; unless `settled`, it may be the consequence of one that is not visible yet."""

    failure: Failure
    settled: bool


def judge(
    pods: Sequence[PodView], lost: Sequence[str], role: Role, attempt: int, now: datetime
) -> Verdict | None:
    """Return the root cause of a gang's failure, or None if no member failed.

    pods: existing members. lost: names of members that existed and are gone.
    """
    causes = [cause for pod in pods if (cause := _cause(pod, now)) is not None]
    causes += [_lost(name, role, attempt, now) for name in lost]
    if not causes:
        return None
    root = min(causes, key=lambda cause: (cause.strength, cause.time, cause.failure.pod or ""))
    alive = any(not pod.ended and not pod.terminating for pod in pods)
    waited = not root.timed or (now - root.time).total_seconds() >= SETTLE_SECONDS
    return Verdict(root.failure, settled=root.strength <= _VANISHED or not alive or waited)


def _cause(pod: PodView, now: datetime) -> Cause | None:
    """Return what happened to one pod, or None if it is healthy."""
    ended = pod.terminated
    if pod.succeeded or not (pod.terminating or pod.failed):
        return None
    known = (ended.finished_at if ended else None) or pod.deletion_requested or pod.unready_since
    at, timed = known or now, known is not None
    taken_at = pod.deletion_requested or at

    def infrastructure(reason: str, message: str, time: datetime) -> Cause:
        return Cause(_failure(pod, now, "Infrastructure", reason, message), _CERTAIN, time)

    cure = _exceeded_limit(pod)
    if cure:
        message = f"Pod {pod.name} was evicted for exceeding its own limit: {pod.message.strip(' .')}; {cure}"
        return Cause(_failure(pod, now, "UserError", "StorageLimitExceeded", message), _CERTAIN, taken_at)
    if ended is not None and ended.report.get(TerminationKey.STATE) == FAILED:
        reported = _reported(pod, ended, now)
        if reported.failure_class in DEFINITE:
            return Cause(reported, _CERTAIN, at)
        if ended.report.get(TerminationKey.PEER_LOST) is True:
            return Cause(reported, _SYMPTOM, at, timed)
        # Where hanging ranks are killed, their peers on other nodes lose their connections.
        return Cause(reported, _STANDSTILL if reported.failure_class == "Hang" else _REPORTED, at, timed)
    if pod.disruption or pod.reason:
        reason = pod.disruption or pod.reason
        preempted = reason in _PREEMPTED
        detail = pod.message or (
            "a workload of higher priority needs its room" if preempted else "the platform removed it"
        )
        message = f"Pod {pod.name} was stopped ({reason}): {detail}"
        if not preempted:
            return infrastructure(reason, message, taken_at)
        return Cause(_failure(pod, now, "Preemption", reason, message), _CERTAIN, taken_at)
    if pod.phase == "Unknown" or (pod.terminating and pod.node_silent):
        # Before Kubernetes 1.26 the eviction from a lost node looks like any other deletion.
        message = f"Node {pod.node or '(unknown)'} of pod {pod.name} no longer reports"
        return infrastructure("NodeLost", message, taken_at)
    failure = _from_exit(pod, ended, now) if ended is not None else None
    if failure is not None and failure.failure_class in DEFINITE:
        return Cause(failure, _CERTAIN, at)
    if pod.terminating:
        return infrastructure("PodDeleted", f"Pod {pod.name} was deleted while it was needed", taken_at)
    if failure is None:
        if pod.init_failure:
            return infrastructure("InitContainerFailed", f"Pod {pod.name} failed: {pod.init_failure}", at)
        message = f"Pod {pod.name} failed before its container started: {pod.message or 'no reason given'}"
        return infrastructure("PodFailed", message, at)
    return Cause(failure, _GUESSED, at, timed)


def _exceeded_limit(pod: PodView) -> str:
    """Return the remedy if a pod was evicted for exceeding its own limit on storage, or an empty string."""
    if pod.reason != "Evicted" or pod.disruption:
        return ""
    volume = _OWN_VOLUME.search(pod.message)
    if volume is not None and volume[1] == "shm":
        return "raise spec.resourcesPerNode.limits.memory, which also bounds /dev/shm"
    if volume is not None:
        return f"write less to volume {volume[1]}, or raise its sizeLimit in spec.podTemplate.volumes"
    if _OWN_DISK.search(pod.message):
        return "write less outside the job's volume, or raise spec.resourcesPerNode.limits.ephemeral-storage"
    return ""


def _lost(name: str, role: Role, attempt: int, now: datetime) -> Cause:
    failure = Failure(
        failure_class="Infrastructure",
        reason="PodDeleted",
        message=f"Pod {name} vanished while it was needed.",
        role=role,
        attempt=attempt,
        pod=name,
        time=now,
    )
    # A vanished pod leaves no time behind. It explains lost connections, but no definite cause.
    return Cause(failure, _VANISHED, datetime.min.replace(tzinfo=UTC))


def _reported(pod: PodView, ended: Terminated, now: datetime) -> Failure:
    """Return the failure of the first failed rank as its launcher reported it."""
    report = ended.report
    named = report.get(TerminationKey.CLASS)
    failure_class: FailureClass = named if named in CLASSES else "Unknown"
    exception = text(report.get(TerminationKey.EXCEPTION), 256)
    message = text(report.get(TerminationKey.MESSAGE)) or exception or "the launcher gave no message"
    exit_code = integer(report.get(TerminationKey.EXIT_CODE), low=-(2**31), high=2**31)
    return _failure(
        pod,
        now,
        failure_class,
        failure_class,
        message,
        rank=integer(report.get(TerminationKey.RANK)),
        exit_code=ended.exit_code if exit_code is None else exit_code,
        signal=_signal(report.get(TerminationKey.SIGNAL)),
        exception=exception or None,
        step=integer(report.get(ProgressKey.STEP)),
    )


def _signal(value: object) -> int | None:
    """Return the number of a signal; launchers report its name, e.g. SIGKILL."""
    if isinstance(value, str):
        return int(Signals[value]) if value in Signals.__members__ else None
    return integer(value, high=128)


def _from_exit(pod: PodView, ended: Terminated, now: datetime) -> Failure:
    """Classify a container by exit code, signal and the runtime's reason: its launcher reported nothing."""
    code = ended.exit_code
    last_line = ended.message.splitlines()[-1][:512] if ended.message and not ended.report else ""
    tail = f": {last_line}" if last_line else ""
    if ended.report.get(TerminationKey.STATE) == INTERRUPTED or code == INTERRUPTED_EXIT_CODE:
        message = f"Pod {pod.name} was interrupted by SIGTERM from outside"
        return _failure(pod, now, "Infrastructure", "Interrupted", message, exit_code=code)
    if ended.reason == "OOMKilled":
        message = f"Pod {pod.name} used more memory than its limit"
        return _failure(pod, now, "OutOfMemory", "OOMKilled", message, exit_code=code, signal=SIGKILL)
    if ended.reason in ("StartError", "ContainerCannotRun") and "not found" in ended.message:
        message = f"The image of pod {pod.name} cannot be started as a trainer{tail}"
        return _failure(pod, now, "UserError", "ImageNotATrainer", message, exit_code=code)
    if code in _EXIT_CLASSES:
        failure_class = _EXIT_CLASSES[code]
        message = f"Pod {pod.name} exited with code {code}{tail}"
        return _failure(pod, now, failure_class, failure_class, message, exit_code=code)
    if code == 128 + SIGKILL or ended.signal == SIGKILL:
        message = f"Pod {pod.name} was killed from outside (SIGKILL), not because of its memory limit"
        return _failure(pod, now, "Infrastructure", "Killed", message, exit_code=code, signal=SIGKILL)
    signal = ended.signal or (code - 128 if code is not None and 128 < code < 128 + 65 else None)
    message = f"Pod {pod.name} exited with code {code}{tail}"
    return _failure(pod, now, "Unknown", ended.reason or "Error", message, exit_code=code, signal=signal)


def _failure(
    pod: PodView,
    now: datetime,
    failure_class: FailureClass,
    reason: str,
    message: str,
    *,
    rank: int | None = None,
    exit_code: int | None = None,
    signal: int | None = None,
    exception: str | None = None,
    step: int | None = None,
) -> Failure:
    sentence = message.rstrip(". ")
    cure = _CURES.get(failure_class)
    return Failure(
        failure_class=failure_class,
        reason=reason,
        message=f"{sentence}; {cure}." if cure else f"{sentence}.",
        role=pod.role,
        attempt=pod.attempt,
        pod=pod.name,
        node=pod.node or None,
        rank=rank,
        exit_code=exit_code,
        signal=signal,
        exception=exception,
        step=step,
        time=now,
    )
