"""The outcome of a launch: the root cause among many signs, and the exit code."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from aurl_trainer.contract import ReportedClass
from aurl_trainer.launcher.outcome import decide
from aurl_trainer.launcher.rundir import RankDeath, RunDirectory
from aurl_trainer.monitor.failure import Failure


def failure(rank: int | None, failure_class: ReportedClass, time: float, *, peer: bool = False) -> Failure:
    return Failure(rank, failure_class, "SomeError", f"cause {rank}", time=time, peer_lost=peer)


@dataclass
class Case:
    name: str
    seen: RunDirectory
    state: str
    failure_class: str | None = None
    rank: int | None = None
    exit_code: int = 0
    child: int | None = 1
    terminated_at: float | None = None
    oom_kills: int = 0
    message: str | None = None
    peer_lost: bool = False
    expected: range = field(default_factory=lambda: range(2))


DONE = {0: "Finished", 1: "Finished"}
SAVED = {0: "Interrupted", 1: "Interrupted"}
LOST = failure(0, "Infrastructure", 1.0, peer=True)

CASES = [
    Case("all ranks finished", RunDirectory(results=DONE), "Succeeded", child=0),
    Case(
        "ended early, as the job wants",
        RunDirectory(results=DONE, stop_reason="It stopped early."),
        "Succeeded",
        child=0,
        message="It stopped early.",
    ),
    Case("finished, agent killed at the exit barrier", RunDirectory(results=DONE), "Succeeded", child=None),
    Case("finished, then SIGTERM", RunDirectory(results=DONE), "Succeeded", child=None, terminated_at=9.0),
    Case("interrupted, saved", RunDirectory(results=SAVED), "Interrupted", exit_code=143, terminated_at=1.0),
    Case("a peer was interrupted", RunDirectory(results=SAVED), "Interrupted", exit_code=143),
    Case(
        "a connection broke after SIGTERM",
        RunDirectory(failures=[failure(0, "Infrastructure", 5.0, peer=True)], deaths=[RankDeath(0, 1)]),
        "Interrupted", exit_code=143, terminated_at=4.0,
    ),
    Case(
        "failed before SIGTERM came",
        RunDirectory(failures=[failure(1, "UserError", 3.0)]),
        "Failed", "UserError", 1, 2, terminated_at=4.0,
    ),
    Case(
        "a lost peer was reported first",
        RunDirectory(failures=[LOST, failure(1, "OutOfMemory", 2.0)]),
        "Failed", "OutOfMemory", 1, 137,
    ),
    Case(
        "the earlier of two causes",
        RunDirectory(failures=[failure(1, "Divergence", 1.0), failure(0, "Unknown", 2.0)]),
        "Failed", "Divergence", 1, 3,
    ),
    Case(
        "a rank failed and torchrun stopped the other, which saved",
        RunDirectory(failures=[failure(1, "Unknown", 1.0)], results={0: "Interrupted"}),
        "Failed", "Unknown", 1, 1,
    ),
    Case(
        "killed by the kernel",
        RunDirectory(failures=[LOST], deaths=[RankDeath(0, 1), RankDeath(1, -9)]),
        "Failed", "OutOfMemory", 1, 137, oom_kills=1,
    ),
    Case(
        "killed from outside",
        RunDirectory(failures=[LOST], deaths=[RankDeath(0, -15), RankDeath(1, -9)]),
        "Failed", "Infrastructure", 1, 137,
    ),
    Case("crashed", RunDirectory(deaths=[RankDeath(1, -11)]), "Failed", "Unknown", 1, 139),
    Case("hung", RunDirectory(failures=[failure(0, "Hang", 1.0)]), "Failed", "Hang", 0, 124),
    Case(
        "only a lost peer",
        RunDirectory(failures=[LOST], deaths=[RankDeath(0, 1)]),
        "Failed", "Infrastructure", 0, 1, peer_lost=True,
    ),
    Case("no report", RunDirectory(deaths=[RankDeath(1, 7)]), "Failed", "Unknown", 1, 1),
    Case("agent killed", RunDirectory(), "Failed", "Infrastructure", None, 137, child=-9),
    Case(
        "no rendezvous", RunDirectory(agent_error="timeout"),
        "Failed", "Infrastructure", None, 1, peer_lost=True,
    ),
    Case("half of the ranks finished", RunDirectory(results={0: "Finished"}), "Failed", "Unknown", None, 1),
    Case("prepared", RunDirectory(), "Succeeded", child=0, expected=range(0)),
    Case("stopped preparing", RunDirectory(), "Interrupted", None, None, 143, -15, 1.0, expected=range(0)),
    Case(
        "no valid file",
        RunDirectory(failures=[failure(None, "UserError", 1.0)]),
        "Failed", "UserError", None, 2, expected=range(0),
    ),
    Case(
        "preparation out of memory", RunDirectory(),
        "Failed", "OutOfMemory", None, 137, -9, oom_kills=1, expected=range(0),
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_outcome(case: Case) -> None:
    outcome = decide(
        case.seen,
        expected=case.expected,
        child_exit_code=case.child,
        terminated_at=case.terminated_at,
        oom_kills=case.oom_kills,
    )
    assert (outcome.state, outcome.failure_class, outcome.rank) == (case.state, case.failure_class, case.rank)
    assert outcome.peer_lost == case.peer_lost
    assert outcome.process_exit_code == case.exit_code
    assert outcome.message == case.message if case.message else outcome.message
