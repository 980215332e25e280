"""Faults during training: an interrupted save, a full disk, a non-finite gradient."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from aurl_trainer.checkpoint.manager import CheckpointManager
from torchrun.jobs import Job, wait_until

SHORT = {"steps": 4, "checkpoint": {"everySteps": 1, "keepLast": 1}, "evaluation": {"everySteps": 0}}


def final_weights(job: Job) -> bytes:
    return (job.checkpoint(4) / "model.safetensors").read_bytes()


def test_death_at_any_write_of_a_checkpoint(tmp_path: Path) -> None:
    """The second of four saves, which also deletes the first, is killed at each of its system calls."""
    whole = Job(tmp_path / "whole", SHORT)
    assert whole.run() == [0], whole.text()
    job = Job(tmp_path / "cut", SHORT, hook="torchrun.fault_injection:die_at_nth_call")
    deaths = 0
    for call in range(1, 90, 3):
        codes = job.run(TEST_N=str(call))
        manager = CheckpointManager(job.checkpoints)
        for checkpoint in manager.all():
            manager.verify(checkpoint)  # a checkpoint with a marker is complete, at any moment
        if codes == [0]:
            break
        assert codes == [-signal.SIGKILL], job.text()
        deaths += 1
    assert job.steps() == [4]
    assert deaths > 3
    assert final_weights(job) == final_weights(whole)
    assert [path.name for path in job.checkpoints.iterdir()] == ["step-00000004"]


def test_full_disk_is_counted_and_training_goes_on(tmp_path: Path) -> None:
    full = tmp_path / "full"
    job = Job(tmp_path / "job", {"checkpoint": {"everySteps": 1}}, hook="torchrun.fault_injection:fill_disk")
    gang = job.start(TEST_FULL=str(full))
    try:
        wait_until(lambda: job.steps() != [], "a checkpoint", gang)
        full.touch()
        wait_until(lambda: len(job.events("checkpoint failed")) > 1, "two failed checkpoints", gang)
        kept = job.steps()
        full.unlink()
        assert gang.wait() == [0], job.text()
    finally:
        gang.kill()
    assert kept
    assert "No space left on device" in job.events("checkpoint failed")[0]["reason"]
    assert job.steps()[-1] == 24
    assert not list(job.checkpoints.glob(".tmp-*"))


def test_disk_that_stays_full_ends_the_job_with_a_reason(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.touch()
    change = {"steps": 4, "checkpoint": {"retries": 1, "retrySeconds": 0}}
    job = Job(tmp_path / "job", change, hook="torchrun.fault_injection:fill_disk")
    assert job.run(TEST_FULL=str(full)) == [1]
    assert job.failure()["failure_class"] == "UserError"
    assert "No space left" in job.failure()["message"]
    assert len(job.events("checkpoint failed")) == 2


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_save_that_failed_is_tried_again(asynchronous: bool, tmp_path: Path) -> None:
    change = {"steps": 4, "checkpoint": {"retrySeconds": 0.01, "asynchronous": asynchronous}}
    job = Job(tmp_path, change, hook="torchrun.fault_injection:fail_writes")
    assert job.run(TEST_FAILURES="2") == [0], job.text()
    assert [event["step"] for event in job.events("checkpoint failed")] == [4, 4]
    assert [event["step"] for event in job.events("checkpoint")] == [4]
    counted = json.loads((tmp_path / "run" / "rank-0.json").read_text())["job"]["checkpoints"]
    assert counted == {"saved": 1, "failed": 2, "damaged": 0}
    CheckpointManager(job.checkpoints).verify(CheckpointManager(job.checkpoints).at(4))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_nan_on_one_rank_touches_nothing_on_any(ranks: int, tmp_path: Path) -> None:
    """Step 3 is poisoned: weights and moments stay those of step 2."""
    change = {"steps": 4, "checkpoint": {"everySteps": 1, "keepLast": 4}, "logging": {"everySteps": 1}}
    job = Job(tmp_path, change, hook="torchrun.fault_injection:poison_one_micro_batch")
    job.write(batch={"globalBatchSize": 4 * ranks, "microBatchSize": 2})
    assert job.run(ranks, TEST_RANK=str(ranks - 1), TEST_STEP="3", TEST_PASSES="2") == [0] * ranks, job.text()
    before, after, last = (load_file(job.checkpoint(step) / "model.safetensors") for step in (2, 3, 4))
    assert all(before[name].equal(after[name]) for name in before)
    assert not all(last[name].equal(after[name]) for name in before)
    before, after = (load_file(job.checkpoint(step) / "optimizer.safetensors") for step in (2, 3))
    assert all(before[name].equal(after[name]) for name in before if not name.startswith("guard/counters"))
    seen = [(event["kind"], event["action"], event["count"]) for event in job.events("anomaly")]
    assert seen == [("NonFinite", "skip", 1)]


def test_a_slow_rank_is_told_from_those_that_wait_for_it(tmp_path: Path) -> None:
    change = {"steps": 6, "logging": {"everySteps": 1}, "batch": {"microBatchSize": 3}}
    job = Job(tmp_path, change, hook="torchrun.fault_injection:slow_down_one_rank")
    assert job.run(2, TEST_RANK="1", TEST_SECONDS="0.2") == [0, 0], job.text()
    snapshot = json.loads((tmp_path / "run" / "rank-0.json").read_text())
    quick, slow = snapshot["job"]["compute_seconds"]
    # All steps take as long as the slow rank; the time that rank 0 spends on its own does not.
    assert slow >= 0.2
    assert quick < slow


def test_divergence_ends_the_job(tmp_path: Path) -> None:
    change = {"stability": {"maxConsecutiveSkips": 1, "maxRollbacks": 0}, "logging": {"everySteps": 1}}
    job = Job(tmp_path, change, hook="torchrun.fault_injection:poison_one_micro_batch")
    assert job.run(TEST_RANK="0", TEST_STEP="6", TEST_PASSES="3") == [1]
    assert job.failure()["failure_class"] == "Divergence"
    assert "up to step 6" in job.failure()["message"]
    assert "stability.maxConsecutiveSkips is 1" in job.failure()["message"]
    assert job.steps() == [5]
