"""Stragglers in the status."""

from __future__ import annotations

import math
from typing import Any

import pytest

from aurl_operator.core.progress import ProgressReport
from unit.operator.builders import World, make_job, running


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
    ],
)
def test_implausible_compute_times_are_ignored(reported: Any) -> None:
    world = running()
    assert ProgressReport({"computeSeconds": reported}, 0, world.now).compute_times(2) is None


def test_ranks_without_compute_time_are_not_compared() -> None:
    world = running()
    report(world, 0.0, 0.0)
    assert marked(world) == []
