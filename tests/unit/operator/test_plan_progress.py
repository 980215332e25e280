"""plan() as tables: plausible reports become progress, and a gang without progress hangs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from aurl_operator.core.actions import Delete
from aurl_operator.core.progress import ProgressReport
from unit.operator.builders import NODES, NOW, after, make_job, running


@pytest.mark.parametrize(
    ("seconds", "step", "age", "state", "hangs"),
    [
        (74, 7, 0, "Training", False),  # the launchers come first, by 15 s
        (76, 7, 0, "Training", True),
        (76, 8, 0, "Training", False),
        (76, 7, 16, "Training", False),
        (76, 7, 0, "Finished", False),
        (76, 7, None, "Training", False),
    ],
    ids=["in time", "hangs", "steps", "launcher out of reach", "is ending", "no report"],
)
def test_a_gang_that_hangs(seconds: float, step: int, age: float | None, state: str, hangs: bool) -> None:
    world = running(make_job(runPolicy={"hangDeadlineSeconds": 60, "backoffLimit": 1}))
    if age is not None:
        world.report = ProgressReport({"step": 7, "totalSteps": 400}, 0, NOW)
        world.settle()
    world.now = after(seconds)
    if age is not None:
        body = {"step": step, "totalSteps": 400, "state": state}
        world.report = ProgressReport(body, 0, after(seconds - age))
    decided = world.look()
    assert decided.requeue_after is not None
    assert (decided.restarted_now == "Hang") == hangs
    if hangs:
        assert decided.status_first
        assert decided.status is not None
        failure = decided.status.last_failure
        assert failure is not None
        assert failure.message == "No new step for 76 s: attempt 0 hangs at step 7."
        assert {a.name for a in decided.actions if isinstance(a, Delete)} == set(NODES)


def test_a_gang_that_never_makes_a_first_step_is_restarted_within_its_budget() -> None:
    world = running(make_job(runPolicy={"hangDeadlineSeconds": 60, "backoffLimit": 1}))
    for attempt in (0, 1):
        world.now += timedelta(seconds=76)
        world.report = ProgressReport({"state": "Starting"}, attempt, world.now)
        world.settle()
        world.pods = {name: pod for name, pod in world.pods.items() if "prepare" in name}
        if attempt == 0:
            assert "before its first step" in world.status["lastFailure"]["message"]
            world.settle()
            world.run("bach-1-0", "bach-1-1")
            world.settle()
            assert world.state == "Running"
    assert world.condition("Failed") == ("True", "BackoffLimitExceeded")
    assert world.status["restarts"]["byClass"] == {"Hang": 1}


def test_only_plausible_progress_of_this_attempt_is_taken() -> None:
    world = running()
    body: dict[str, Any] = {
        "step": 100,
        "totalSteps": 400,
        "startStep": 0,
        "loss": 2.34567,
        "tokensPerSecond": 1234.5,
        "lastCheckpoint": {"step": 80, "path": "p", "time": "2026-01-01T12:00:00Z"},
        "firstStepAt": "2026-01-01T12:00:00Z",
        "updatedAt": "2026-01-01T12:01:39Z",
    }
    world.report = ProgressReport(body, 1, NOW)
    world.settle()
    assert "progress" not in world.status
    world.report = ProgressReport(body, 0, NOW)
    world.settle()
    progress = world.status["progress"]
    assert (progress["step"], progress["percentage"], progress["loss"]) == (100, 25, 2.3457)
    assert progress["estimatedRemainingSeconds"] == 300
    assert world.status["lastCheckpoint"]["step"] == 80
    world.now = after(60)
    world.report = ProgressReport({"step": 500, "totalSteps": 400}, 0, world.now)
    world.settle()
    assert world.status["progress"]["step"] == 100


def test_with_many_jobs_routine_progress_is_written_less_often() -> None:
    """Only routine progress waits; a checkpoint is written immediately."""
    world = running()
    world.report = ProgressReport({"step": 1, "totalSteps": 400}, 0, NOW, write_interval=50)
    world.settle()
    steps = []
    for seconds in (10, 20, 30, 40, 50):
        world.now = after(seconds)
        body: dict[str, Any] = {"step": seconds, "totalSteps": 400}
        if seconds == 20:
            body["lastCheckpoint"] = {"step": 15, "path": "p", "time": "2026-01-01T12:00:20Z"}
        world.report = ProgressReport(body, 0, world.now, write_interval=50)
        world.settle()
        steps.append(world.status["progress"]["step"])
    assert steps == [1, 20, 20, 20, 20]
    world.now = after(61)
    world.report = ProgressReport({"step": 61, "totalSteps": 400}, 0, world.now, write_interval=50)
    world.settle()
    assert world.status["progress"]["step"] == 61
