"""Stragglers in the status."""

from __future__ import annotations

import math
import random
import time
from statistics import median
from typing import Any

import pytest

from aurl_operator.core.progress import ProgressReport
from aurl_operator.core.stragglers import median_without, stragglers
from unit.operator.builders import World, after, make_job, running


def report(world: World, *seconds: Any) -> None:
    """The launcher of rank 0 reports the compute times of all ranks."""
    world.report = ProgressReport({"step": 9, "computeSeconds": list(seconds)}, 0, world.now)
    world.settle()


def marked(world: World) -> list[tuple[int, str, float]]:
    return [(s["rank"], s.get("node", ""), s["slowdown"]) for s in world.status.get("stragglers", [])]


def test_a_slow_rank_is_marked_with_its_node_until_it_has_caught_up() -> None:
    world = running(make_job(numProcPerNode=2, runPolicy={"stragglerFactor": 2}))
    world.place(bach_0_0="fast", bach_0_1="slow")
    report(world, 1.0, 1.1, 1.9, 0.9)
    assert marked(world) == []
    report(world, 1.0, 1.1, 2.4, 0.9)
    assert marked(world) == [(2, "slow", 2.4)]
    assert world.events.count("Straggler") == 1
    report(world, 1.0, 1.0, 1.85, 1.0)
    assert marked(world) == [(2, "slow", 1.9)], "it must fall clearly below the factor"
    report(world, 1.0, 1.0, 1.7, 1.0)
    assert marked(world) == []
    assert world.events.count("Straggler") == 1


def test_marks_end_with_the_attempt() -> None:
    world = running()
    report(world, 1.0, 5.0)
    assert marked(world) == [(1, "node-1", 5.0)]
    world.fail("bach-0-1", 3)
    world.settle()
    assert marked(world) == []


@pytest.mark.parametrize(
    "reported",
    [
        None,
        "fast",
        [],
        [1.0],
        [1.0, 2.0, 3.0],
        [1.0, "x"],
        [1.0, None],
        [1.0, -1],
        [1.0, math.nan],
        [1, True],
        {"median": 1.0},
        {"median": 1.0, "slowest": {}},
        {"median": 1.0, "slowest": {"2": 1.0}},
        {"median": 1.0, "slowest": {"x": 1.0}},
        {"median": 1.0, "slowest": {"1": None}},
        {"median": "1", "slowest": {"1": 1.0}},
        {"slowest": {"1": 1.0}},
    ],
)
def test_implausible_compute_times_are_ignored(reported: Any) -> None:
    world = running()
    assert ProgressReport({"computeSeconds": reported}, 0, world.now).compute_times(2) is None


def test_ranks_without_compute_time_are_not_compared() -> None:
    world = running()
    report(world, 0.0, 0.0)
    assert marked(world) == []


def test_of_many_ranks_the_slowest_are_compared_with_the_median() -> None:
    world = running(make_job(numProcPerNode=2, runPolicy={"stragglerFactor": 2}))
    body = {"step": 9, "computeSeconds": {"median": 1.0, "slowest": {"3": 2.5, "0": 1.5}}}
    world.report = ProgressReport(body, 0, world.now)
    world.settle()
    assert marked(world) == [(3, "node-1", 2.5)]


@pytest.mark.parametrize("size", [2, 3, 4, 7, 100, 101])
def test_the_median_of_the_others_is_exact(size: int) -> None:
    draw = random.Random(size)
    values = [draw.choice([1.0, 2.0, draw.random()]) for _ in range(size)]
    for index, value in enumerate(values):
        others = values[:index] + values[index + 1 :]
        assert median_without(sorted(values), value) == pytest.approx(median(others))


def test_four_thousand_ranks_are_compared_within_milliseconds() -> None:
    world = running(make_job(numProcPerNode=64))
    seconds = [1.0 + rank / 1e6 for rank in range(4096)]
    report = ProgressReport({"step": 9, "computeSeconds": seconds}, 0, world.now)
    times = report.compute_times(4096)
    assert times is not None
    start = time.process_time()
    assert stragglers(times, 1.5, [], {}, 64, world.now) == []
    assert time.process_time() - start < 0.2


def test_an_answer_that_is_too_large_is_reported_and_is_no_hang() -> None:
    world = running(make_job(runPolicy={"hangDeadlineSeconds": 60}))
    world.now = after(600)
    world.report = ProgressReport({}, 0, world.now, problem="is larger than 64 KiB")
    world.settle()
    assert world.state == "Running"
    assert world.condition("Stalled") == ("True", "ProgressUnreadable")
    assert "larger than 64 KiB" in world.message("Stalled")
    world.report = ProgressReport({"step": 9}, 0, world.now)
    world.settle()
    assert world.condition("Stalled")[0] == "False"
    assert world.status["progress"]["step"] == 9
