"""A job that is killed or stopped and restarted ends with the same bits as one that was not."""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
from pathlib import Path

import pytest

from torchrun.jobs import TRAINING, Job, wait_until

END = TRAINING["steps"]


def weights(job: Job, step: int = END) -> dict[str, bytes]:
    """Everything that training has changed: weights, moments, guard, random generators."""
    names = [
        "model.safetensors",
        "optimizer.safetensors",
        *(p.name for p in job.checkpoint(step).glob("rank-*")),
    ]
    return {name: (job.checkpoint(step) / name).read_bytes() for name in names}


def reached(job: Job, step: int) -> bool:
    return job.step() >= step


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Job]:
    """The job, run without interruption by 1 and by 3 ranks."""
    jobs = {}
    for ranks in (1, 3):
        jobs[ranks] = Job(tmp_path_factory.mktemp(f"whole-{ranks}"))
        assert jobs[ranks].run(ranks) == [0] * ranks, jobs[ranks].text()
    return jobs


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_hard_life_ends_with_equal_bits(ranks: int, tmp_path: Path, whole: dict[int, Job]) -> None:
    job, chance = Job(tmp_path), random.Random()
    for life in range(2):  # a rank dies, and the rest are killed at some moment after that
        gang, goal = job.start(ranks), 8 * life + chance.randrange(1, 8)
        wait_until(functools.partial(reached, job, goal), f"step {goal}", gang)
        os.kill(job.pids()[chance.randrange(ranks)], signal.SIGKILL)
        gang.kill()
    gang = job.start(ranks)
    wait_until(lambda: job.events("training started") != [], "the beginning", gang)
    os.kill(job.pids()[ranks - 1], signal.SIGTERM)  # one rank is asked to stop
    assert gang.wait() == [0] * ranks, job.text()
    assert job.results() == ["Interrupted"] * ranks
    stopped = job.events("training ended")[0]["step"]
    assert job.steps()[-1] == stopped < END
    assert job.run(ranks) == [0] * ranks, job.text()
    assert job.events("training started")[0]["step"] == stopped
    assert weights(job) == weights(whole[ranks])


def test_a_resume_from_any_step_ends_with_equal_bits(tmp_path: Path) -> None:
    # Inside the window: an overflow that halves the loss scale (step 3), falling dropout, the start of an
    # average of the weights, and a change of sequence length, which halves the samples of a step.
    changes = {
        "steps": 9,
        "precision": "fp16",
        "curriculum": {"kind": "linear", "startLength": 8, "rampFraction": 0.5},
        "dropoutSchedule": {"kind": "linear", "final": 0.0},
        "ema": {"decay": 0.9},
        "checkpoint": {"everySteps": 1, "keepLast": 9, "asynchronous": False},
    }
    samples = str(tmp_path / "samples")
    whole = Job(tmp_path / "whole", changes, "torchrun.fault_injection:record_samples_of_an_overflow")
    assert whole.run(TEST_SAMPLES=samples, TEST_STEP="3") == [0], whole.text()
    expected = weights(whole, 9)
    for step in range(1, 9):
        job = Job(tmp_path / f"from-{step}", changes, whole.hook)
        shutil.copytree(whole.directory, job.directory)
        for later in range(step + 1, 10):
            shutil.rmtree(job.checkpoint(later))
        assert job.run(TEST_SAMPLES=samples, TEST_STEP="3") == [0], job.text()
        assert job.events("training started")[0]["step"] == step
        assert weights(job, 9) == expected, f"from step {step}"


def test_torchrun_with_two_ranks_killed_and_finished(tmp_path: Path) -> None:
    straight = Job(tmp_path / "straight")
    assert straight.run(2) == [0, 0], straight.text()
    job = Job(tmp_path / "killed")
    gang = job.start(2, torchrun=True)
    wait_until(lambda: job.steps() != [] and job.step() > 7, "a checkpoint", gang)
    gang.kill()
    assert job.run(2, torchrun=True) == [0], job.text()
    assert job.results() == ["Finished", "Finished"]
    assert weights(job) == weights(straight)


def test_finished_job_started_again_changes_nothing(whole: dict[int, Job]) -> None:
    job = whole[1]
    before = weights(job)
    assert job.run(1) == [0], job.text()
    assert job.events("training started")[0]["step"] == END
    assert weights(job) == before


def test_damaged_checkpoint_is_named_and_the_older_one_used(tmp_path: Path, whole: dict[int, Job]) -> None:
    job = Job(tmp_path)
    assert job.run(1) == [0], job.text()
    assert job.steps() == [20, END]
    model = job.checkpoint(END) / "model.safetensors"
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(data)
    assert job.run(1) == [0], job.text()
    assert f"step-{END:08d}/model.safetensors" in job.events("damaged checkpoint")[0]["reason"]
    assert job.events("training started")[0]["step"] == 20
    assert weights(job) == weights(whole[1])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"model": {"layers": 2}}, "model.layers is 1 there and 2 in this job"),
        ({"model": {"dModel": 32, "dropout": 0.5}}, "model.dModel is 16 there and 32 in this job"),
    ],
)
def test_checkpoint_of_another_model_is_refused(
    change: dict[str, dict[str, float]], complaint: str, tmp_path: Path
) -> None:
    job = Job(tmp_path, {"steps": 2, "schedule": {"warmupSteps": 1}})
    assert job.run(1) == [0], job.text()
    job.write(**change)
    assert job.run(1) == [1]
    assert job.failure()["failure_class"] == "UserError"
    assert complaint in job.failure()["message"]
    assert job.steps() == [2]


def test_world_size_may_change(tmp_path: Path) -> None:
    job = Job(tmp_path, {"steps": 6})
    assert job.run(2) == [0, 0], job.text()
    job.write(steps=8)
    assert job.run(1) == [0], job.text()
    assert job.events("training started")[0]["step"] == 6
    assert job.events(
        "the layout of ranks has changed: data order stays the same, rounding and dropout do not"
    )
    assert job.steps()[-1] == 8
