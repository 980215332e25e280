"""Why a gang failed: the root cause among its pods, and the class of failure that decides what happens next.

A failing rank takes its peers with it (their connections break): the pod seen first is not always the cause.
Evidence is ranked: what the platform did to a pod and definite causes, by time; then possible consequences.
"""

from __future__ import annotations

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
from aurl_operator.core.podview import PodView, Terminated

CLASSES: Final[tuple[FailureClass, ...]] = get_args(FailureClass)
DEFINITE: Final = frozenset({"UserError", "OutOfMemory", "Divergence"})

#: Seconds to wait for a better cause while only consequences are known and members of the gang still run.
SETTLE_SECONDS = 2.0

SIGKILL = 9
#: What scheduler and kubelet write when a pod has to make room for one of higher priority.
_PREEMPTED: Final = frozenset(
    {"PreemptionByScheduler", "PreemptionByKubeScheduler", "Preempting", "Preempted", "StoppedByQueue"}
)
#: 137 is left out: SIGKILL from outside gives it too, and the kubelet names the memory limit (OOMKilled).
_EXIT_CLASSES: Final[dict[int, FailureClass]] = {
    code: name for name, code in EXIT_CODES.items() if name != "OutOfMemory"
}
_CURES: Final[dict[str, str]] = {
    "OutOfMemory": "raise spec.resourcesPerNode.limits.memory or use a smaller batch",
}


#: How well evidence explains a gang's end; the lowest wins, the earliest of equals.
_CERTAIN, _STANDSTILL, _TOLD, _GUESSED = range(4)


@dataclass(frozen=True)
class Cause:
    """A failure with how well it explains the gang's end; `strength` 0 is best, `time` breaks ties."""

    failure: Failure
    strength: int
    time: datetime


@dataclass(frozen=True)
class Verdict:
    """The root cause, and whether it may still be the consequence of one that is not visible yet."""

    failure: Failure
    settled: bool


def judge(
    pods: Sequence[PodView], lost: Sequence[str], role: Role, attempt: int, now: datetime
) -> Verdict | None:
    """The root cause of a gang's failure, None if no member failed.

    pods: the members that exist. lost: names of members that existed and are gone.
    """
    causes = [cause for pod in pods if (cause := _cause(pod, now)) is not None]
    causes += [_lost(name, role, attempt, now) for name in lost]
    if not causes:
        return None
    root = min(causes, key=lambda cause: (cause.strength, cause.time, cause.failure.pod or ""))
    alive = any(not pod.over and not pod.leaving for pod in pods)
    waited = (now - root.time).total_seconds()
    return Verdict(root.failure, settled=root.strength == _CERTAIN or not alive or waited >= SETTLE_SECONDS)


def _cause(pod: PodView, now: datetime) -> Cause | None:
    """What happened to one pod, None if it is well."""
    ended = pod.terminated
    if pod.phase == "Succeeded":
        return None
    if not pod.leaving and pod.phase not in ("Failed", "Unknown"):
        return None
    reported = ended is not None and ended.report.get(TerminationKey.STATE) == FAILED
    at = (ended.finished if ended else None) or pod.left or now
    if reported and ended is not None:
        failure = _reported(pod, ended, now)
        # Where one node's ranks are killed because they hang, those of the others lose their connections.
        told = _STANDSTILL if failure.failure_class == "Hang" else _TOLD
        return Cause(failure, _CERTAIN if failure.failure_class in DEFINITE else told, at)
    if pod.disruption or pod.reason:
        reason = pod.disruption or pod.reason
        taken = reason in _PREEMPTED
        detail = pod.message or (
            "its room is needed for work of higher priority" if taken else "the platform took it"
        )
        message = f"Pod {pod.name} was stopped ({reason}): {detail}"
        failure_class: FailureClass = "Preemption" if taken else "Infrastructure"
        return Cause(_failure(pod, now, failure_class, reason, message), _CERTAIN, pod.left or at)
    if pod.phase == "Unknown" or (pod.leaving and pod.silent):
        # Before Kubernetes 1.26 the eviction from a lost node looks like any other deletion.
        message = f"Node {pod.node or '(unknown)'} of pod {pod.name} no longer reports"
        return Cause(_failure(pod, now, "Infrastructure", "NodeLost", message), _CERTAIN, pod.left or at)
    if pod.leaving:
        message = f"Pod {pod.name} was deleted while it was needed"
        return Cause(_failure(pod, now, "Infrastructure", "PodDeleted", message), _CERTAIN, pod.left or at)
    if ended is None:
        message = f"Pod {pod.name} failed before its container started: {pod.message or 'no reason given'}"
        return Cause(_failure(pod, now, "Infrastructure", "PodFailed", message), _CERTAIN, at)
    failure = _from_exit(pod, ended, now)
    return Cause(failure, _CERTAIN if failure.failure_class in DEFINITE else _GUESSED, at)


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
    # A vanished pod has left no time behind; it explains its peers' ends, so it counts as the earliest.
    return Cause(failure, _CERTAIN, datetime.min.replace(tzinfo=UTC))


def _reported(pod: PodView, ended: Terminated, now: datetime) -> Failure:
    """The launcher's own account of the first failed rank."""
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
    """A signal's number; launchers give its name, as in SIGKILL."""
    if isinstance(value, str):
        return int(Signals[value]) if value in Signals.__members__ else None
    return integer(value, high=128)


def _from_exit(pod: PodView, ended: Terminated, now: datetime) -> Failure:
    """What exit code, signal and the runtime's reason tell where the launcher left no account."""
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
        message = f"Pod {pod.name} was killed from outside (SIGKILL), not for its memory limit"
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
