"""The memory profile: a peak belongs to its phase, and most steps are not split."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aurl_trainer.memory import profile
from aurl_trainer.memory.profile import MemoryProfile
from aurl_trainer.monitor.report import RankReporter

CPU = torch.device("cpu")
SIZE = 96 * 2**20


def test_a_peak_belongs_to_its_phase_alone() -> None:
    reporter = RankReporter(None)
    reporter.host.take_peak()  # earlier tests of this process may have held more memory
    profiled = MemoryProfile(reporter, CPU, every_steps=10)
    profiled.enter("training")
    with profiled.phase("evaluation"):
        torch.ones(SIZE, dtype=torch.uint8)
        reporter.host.reset_peak()  # a reset by another reader loses nothing
    profiled.settle()
    phases = reporter.snapshot.memory_phases
    assert phases["evaluation"]["rss"] > phases["training"]["rss"] + SIZE * 0.8
    summary = profiled.summary()
    assert summary["peak"]["rss"] == {"phase": "evaluation", "bytes": phases["evaluation"]["rss"]}
    assert list(summary["phases"]) == ["initialise", "training", "evaluation"]
    assert reporter.host.peak >= phases["evaluation"]["rss"]


@pytest.mark.parametrize(("interval", "watched"), [(0.0, [1, 4, 8, 12]), (1e9, [1])])
def test_a_step_is_looked_into_when_it_is_logged_and_not_too_often(
    interval: float, watched: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "INTERVAL", interval)
    profiled = MemoryProfile(RankReporter(None), CPU, every_steps=4)
    profiled.enter("training")
    seen = []
    for step in range(1, 13):
        profiled.step(step)
        if profiled.watching:
            seen.append(step)
            profiled.enter("training")
    assert seen == watched


def test_the_profile_of_all_ranks_names_the_worst(tmp_path: Path) -> None:
    texts = [
        '{"rank": 0, "peak": {"rss": {"phase": "training", "bytes": 5}}, "phases": {}}',
        '{"rank": 1, "peak": {"rss": {"phase": "evaluation", "bytes": 7}}, "phases": {}}',
    ]
    worst = profile.write_profile(tmp_path / "memory" / "profile.json", texts, {"step": 3})
    assert worst == {"rss": {"phase": "evaluation", "bytes": 7, "rank": 1}}
