"""Decides how a launch ended, and the root cause, from the evidence of ranks, agent and kernel. Pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace

from aurl_trainer.contract import (
    EXIT_CODES,
    FAILED,
    INTERRUPTED,
    INTERRUPTED_EXIT_CODE,
    SUCCEEDED,
    EndState,
    ReportedClass,
)
from aurl_trainer.launcher.rundir import RankDeath, RunDirectory
from aurl_trainer.launcher.stall import Stall
from aurl_trainer.monitor.failure import Failure

_HINTS: dict[int, str] = {
    signal.SIGBUS: "; that is often a full /dev/shm",
    signal.SIGILL: "; PyTorch was built for another CPU",
}


@dataclass(frozen=True)
class Outcome:
    """The end of a launch; the fields of the root cause are None unless `state` is Failed.

    peer_lost: the failure is a symptom, and the launcher of another node knows the cause.
    """

    state: EndState
    message: str
    failure_class: ReportedClass | None = None
    rank: int | None = None
    exit_code: int | None = None
    signal: str | None = None
    exception: str | None = None
    peer_lost: bool = False

    @property
    def process_exit_code(self) -> int:
        """Exit code of the launcher, as documented in docs/contracts.md."""
        if self.state == SUCCEEDED:
            return 0
        if self.state == INTERRUPTED:
            return INTERRUPTED_EXIT_CODE
        if self.failure_class is not None and self.failure_class in EXIT_CODES:
            return EXIT_CODES[self.failure_class]
        return self.exit_code if self.signal and self.exit_code else 1


def decide(
    seen: RunDirectory,
    *,
    expected: range,
    child_exit_code: int | None,
    terminated_at: float | None,
    oom_kills: int,
    stall: Stall | None = None,
) -> Outcome:
    """Return the outcome of a launch whose child (agent or preparation) is gone.

    `expected` are the ranks of this node (empty for a preparation), `child_exit_code` the child's (−n for
    signal n, None if the launcher had to kill it), `terminated_at` the time at which the launcher received
    SIGTERM (epoch seconds), `oom_kills` the number of processes that the kernel's OOM killer ended during the
    launch, and `stall` the stall for which the launcher itself ended its ranks.
    """
    interrupted = INTERRUPTED in seen.results.values()
    finished = all(rank in seen.results for rank in expected) if expected else child_exit_code == 0
    if finished and not interrupted:
        complete = seen.stop_reason or "The training is complete."
        return Outcome(SUCCEEDED, complete if expected else "The dataset is ready.")
    if stall is not None:
        return Outcome(
            FAILED, stall.sentence, failure_class="Hang", rank=stall.rank, exit_code=EXIT_CODES["Hang"]
        )
    # Failures after SIGTERM are its consequences: peers leave, connections break.
    failures = [
        failure for failure in seen.failures if terminated_at is None or failure.time <= terminated_at
    ]
    causes = [failure for failure in failures if not failure.peer_lost]
    if causes:
        return _from_failure(causes[0])
    if terminated_at is None and seen.deaths:
        return _from_death(seen.deaths, failures, oom_kills)
    if finished and interrupted:
        return Outcome(INTERRUPTED, "The training was interrupted; a checkpoint of the last step was saved.")
    if interrupted or terminated_at is not None:
        return Outcome(INTERRUPTED, "The work was interrupted before a checkpoint could be saved.")
    if failures:
        return _from_failure(failures[0])
    return _from_child(child_exit_code, bool(expected), seen.agent_error, oom_kills)


def _from_death(deaths: list[RankDeath], failures: list[Failure], oom_kills: int) -> Outcome:
    """Return the cause if no rank reported its own: a signal, a lost peer, or an exit without a report."""
    # torchrun sends SIGTERM to the other ranks after one has failed: the least likely cause.
    by_signal = [death for death in deaths if death.exit_code < 0]
    by_signal.sort(key=lambda death: (death.exit_code == -signal.SIGTERM, death.rank))
    if by_signal and (by_signal[0].exit_code != -signal.SIGTERM or not failures):
        return _from_signal(by_signal[0].rank, -by_signal[0].exit_code, oom_kills)
    if failures:
        return _from_failure(failures[0])
    death = deaths[0]
    reason = f"Rank {death.rank} exited with code {death.exit_code} and left no report; see its log."
    return Outcome(FAILED, reason, failure_class="Unknown", rank=death.rank, exit_code=death.exit_code)


def _from_failure(failure: Failure) -> Outcome:
    who = "The preparation" if failure.rank is None else f"Rank {failure.rank}"
    message = failure.message
    if failure.peer_lost:
        message = f"{who} lost its connection: {message}"
    return Outcome(
        FAILED,
        message,
        failure_class=failure.failure_class,
        rank=failure.rank,
        exit_code=EXIT_CODES.get(failure.failure_class, 1),
        exception=failure.exception,
        peer_lost=failure.peer_lost,
    )


def _from_signal(rank: int | None, number: int, oom_kills: int) -> Outcome:
    who = "The preparation" if rank is None else f"Rank {rank}"
    name = signal_name(number)
    failure_class: ReportedClass = "Unknown"
    reason = f"{who} was killed by {name}{_HINTS.get(number, '')}."
    if number == signal.SIGKILL and oom_kills > 0:
        failure_class = "OutOfMemory"
        reason = f"{who} was killed by the kernel because the container reached its memory limit."
    elif number in (signal.SIGKILL, signal.SIGTERM):
        failure_class = "Infrastructure"
        reason = f"{who} was killed by {name} from outside."
    return Outcome(
        FAILED, reason, failure_class=failure_class, rank=rank, exit_code=128 + number, signal=name
    )


def signal_name(number: int) -> str:
    """Return the name of a signal, such as SIGKILL; real-time signals have only their number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _from_child(exit_code: int | None, training: bool, error: str | None, oom_kills: int) -> Outcome:
    """Return the outcome of an agent or preparation that ended without a reason."""
    who = "The torchrun agent" if training else "The preparation"
    if exit_code is not None and exit_code < 0:
        return replace(
            _from_signal(None, -exit_code, oom_kills),
            message=f"{who} was killed by {signal_name(-exit_code)}.",
        )
    if training and error is not None:
        reason = f"The torchrun agent failed before its ranks started: {error}"
        return Outcome(FAILED, reason, failure_class="Infrastructure", exit_code=1, peer_lost=True)
    reason = f"{who} exited with code {exit_code} and left no report; see its log."
    return Outcome(FAILED, reason, failure_class="Unknown", exit_code=exit_code)
