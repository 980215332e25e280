"""The benchmarks that need no API server, at their smallest size: they run, and their JSON is complete."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from aurl_dev.bench.chorale_floor import informed_five_gram_nats
from aurl_dev.bench.jsb import PUBLISHED
from benchmarks import assert_positive, run_smallest


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of all phases of `make bench-trainer`, that for GPUs included."""
    return run_smallest("trainer", tmp_path_factory.mktemp("trainer"), "--threads", "1")


@pytest.mark.parametrize("phase", ["headline", "medium"])
def test_the_trainer_against_a_plain_loop(phase: str, trainer: dict[str, Any]) -> None:
    found = trainer[phase]
    names = ("tokens_per_second", "samples_per_second", "plain_tokens_per_second", "ratio_to_plain")
    assert_positive(found, *names, "peak_rss_mib", "parameters")
    assert (len(found["ratios"]), found["vocabulary"], found["threads"]) == (1, 774, 1)
    assert found["configuration"]["steps"] > 0


def test_checkpoints(trainer: dict[str, Any]) -> None:
    names = ("parameters", "bytes", "synchronous_ms", "blocked_ratio")
    assert_positive(trainer["checkpoint"], *names)
    assert {"blocked_ms", "slower_pass_ms", "verify_seconds", "restore_seconds"} <= trainer[
        "checkpoint"
    ].keys()


def test_the_gpu_phase_as_far_as_a_cpu_goes(trainer: dict[str, Any]) -> None:
    (found,) = trainer["gpu"].values()
    assert "error" not in found, found["error"]
    assert_positive(found, "tokens_per_second")
    assert {"mfu", "device_peak_mib", "recompiled_graphs", "configuration"} <= found.keys()


def test_preparation_and_loading(tmp_path: Path) -> None:
    found = run_smallest("data", tmp_path)
    assert_positive(
        found["tokenizer"],
        "files_per_second",
        "tokens_per_second",
        "mido_files_per_cpu_second",
        "ratio_to_mido",
    )
    assert [each["files"] for each in found["preparation"]] == [3, 12]
    for each in found["preparation"]:
        assert_positive(each, "files_per_second", "peak_rss_mib", "peak_rss_mib_of_all_processes")
    if "scaling" in found:  # needs two CPUs
        assert_positive(found["scaling"], "files_per_second", "ratio_to_one_worker")
    assert_positive(found["loader"], "loader_tokens_per_second_plain", "loader_tokens_per_second_augmented")
    assert found["streaming"]["resident_mib_added"] <= found["streaming"]["bound_mib"]


def test_sampling(tmp_path: Path) -> None:
    found = run_smallest("sample", tmp_path)
    assert [each["batch"] for each in found["runs"]] == [1, 16]
    for each in found["runs"]:
        assert_positive(each, "tokens_per_second", "tokens_per_cpu_second")


def write_rasters(path: Path) -> int:
    """Write pieces of four voices that move by seconds each quarter; return the tokens of the test pieces."""
    source = random.Random(0)

    def piece() -> list[list[int]]:
        quarters = [[72, 67, 60, 48]]
        for _ in range(11):
            quarters.append([pitch + source.choice((-1, 0, 2)) for pitch in quarters[-1]])
        return [step for step in quarters for _ in range(4)]

    pieces = {"train": [piece() for _ in range(8)], "valid": [piece()], "test": [piece(), piece()]}
    path.write_text(json.dumps(pieces))
    return sum(4 * len(steps) + 1 for steps in pieces["test"])


def test_chorales_from_rasters_to_the_report(tmp_path: Path) -> None:
    data = tmp_path / "rasters.json"
    tokens = write_rasters(data)
    report = run_smallest("jsb", tmp_path, "--data", str(data), "--job-dir", str(tmp_path / "job"))
    assert report["test_tokens"] == tokens  # every note and the end of each piece
    assert (report["steps"], report["device"], report["published"]) == (3, "cpu", PUBLISHED)
    assert 0 < report["test_nll"] < 1.1 * math.log(91)
    # Notes change on the beat alone: a model that knows the beat must be surprised less often.
    assert 0 < report["informed_five_gram_nll"] < report["five_gram_nll"]


def test_knowing_voice_and_beat_leaves_the_choices_on_the_beats(tmp_path: Path) -> None:
    data = tmp_path / "rasters.json"
    write_rasters(data)
    # Three choices for each voice at each of the beats after the first, and nothing between them.
    choices = math.log(3) * 11 / 48
    assert choices < informed_five_gram_nats(data, 91) < choices + 0.75
