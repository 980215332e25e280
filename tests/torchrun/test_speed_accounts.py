"""Goodput, badput and compilation, in the loop."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from torchrun.jobs import Job, merge
from torchrun.test_modes import LATENTS


def accounts(job: Job) -> dict[str, Any]:
    """The job's accounts on the volume."""
    read: dict[str, Any] = json.loads((job.directory / "goodput.json").read_text())
    return read


def test_goodput_and_badput_add_up_to_wall_clock_over_a_death(tmp_path: Path) -> None:
    # Checkpoints at 10 and 20; death before 18 loses seven steps.
    changes = {"checkpoint": {"everySteps": 10, "asynchronous": False}, "logging": {"everySteps": 1}}
    job = Job(tmp_path, changes, "torchrun.fault_injection:account_at_once")
    began = time.time()
    killed = job.run(2, TEST_SAMPLES=str(tmp_path / "samples"), TEST_DEATH="18")
    assert set(killed) == {-signal.SIGKILL}
    assert job.run(2) == [0, 0], job.text()
    book = accounts(job)
    spent = book["goodput"] + sum(book["badput"].values())
    assert spent == pytest.approx(book["settled_at"] - book["started_at"])
    # The file is written at the end, whose time the test knows only roughly.
    assert began - 1 <= book["started_at"] <= book["settled_at"] <= time.time()
    assert book["goodput"] > 0
    for cause in ("init", "restore", "data_wait", "evaluation", "checkpoint", "lost_progress", "restart"):
        assert book["badput"][cause] > 0, cause
    reported = json.loads((tmp_path / "run" / "rank-0.json").read_text())["job"]
    assert reported["goodput_seconds"] == pytest.approx(book["goodput"])
    assert 0 < reported["goodput_ratio"] < 1
    assert reported["metrics"]["mfu"] is None


def test_compiled_blocks_are_compiled_before_the_first_step_only(tmp_path: Path) -> None:
    # Micro-batches of 4 and 2 samples, an evaluation and a sample: five shapes, of which two are trained on.
    changes = {
        "steps": 6,
        "compile": True,
        "model": {"dropout": 0.0},  # compiled code draws other random numbers
        "batch": {"globalBatchSize": 6, "microBatchSize": 4},
        "logging": {"everySteps": 1, "peakTeraflops": 1.0},
        "evaluation": {"everySteps": 2, "batches": 1},
        "sample": {"count": 1, "maxTokens": 16},
    }
    job = Job(tmp_path, changes)
    codes = job.run(1)
    if not any(map(shutil.which, ("g++", "c++", "clang++"))):
        assert codes == [2] and "needs a C++ compiler" in job.failure()["message"]
        return
    assert codes == [0], job.text()
    assert job.events("training ended")[0]["recompiled_graphs"] == 0
    book, reported = accounts(job), json.loads((tmp_path / "run" / "rank-0.json").read_text())["job"]
    assert book["badput"]["compile"] > 0
    assert 0 < reported["metrics"]["mfu"] < 1
    # Rounding may differ, training may not.
    plain = Job(tmp_path / "plain", {**changes, "compile": False})
    assert plain.run(1) == [0], plain.text()
    losses = [[event["train"] for event in run.events("step")] for run in (job, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("mode", ["transformer", "vae"])
def test_a_curriculum_of_many_lengths_compiles(mode: str, tmp_path: Path) -> None:
    """Five lengths in two sizes of micro-batches, with two kinds of blocks: more than TorchDynamo's limit."""
    changes = {
        "mode": mode,
        "steps": 6,
        "contextLength": 128,
        "compile": True,
        "curriculum": {"kind": "step", "startLength": 8, "everySteps": 1},
        "model": {
            "layers": 2,
            "dropout": 0.0,
            "attention": {"kind": "local-global", "window": 4, "globalEvery": 2},
        },
        "batch": {"globalBatchSize": 3, "microBatchSize": 2},
        "schedule": {"warmupSteps": 1},
    }
    if mode == "vae":
        changes = merge(changes, {"model": {"latents": LATENTS}})
    job = Job(tmp_path, changes, "torchrun.fault_injection:compile_without_a_compiler")
    assert job.run() == [0], job.text()
    assert job.events("training ended")[0]["recompiled_graphs"] == 0
