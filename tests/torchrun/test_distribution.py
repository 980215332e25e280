"""Any number of ranks, replicated or sharded: the same training, the same checkpoints, the same end."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from aurl_dev.melodies import write_music
from launcher.harness import RunningLauncher
from torchrun.jobs import DATASET, TRAINING, Job, merge, wait_until
from torchrun.test_samples import recorded

FSDP = {"distribution": {"strategy": "fsdp"}}
HOOK = "torchrun.fault_injection:record_samples"
GOLDEN = Path(__file__).with_name("golden_transformer.json")
CURVE = {"model": {"layers": 2, "dropout": 0.0}, "logging": {"everySteps": 1}}


def losses(job: Job) -> list[float]:
    return [event["train"] for event in job.events("step")]


def files(job: Job, step: int) -> dict[str, bytes]:
    """Everything that training has changed, on disk."""
    paths = [job.checkpoint(step) / f"{name}.safetensors" for name in ("model", "optimizer")]
    return {path.name: path.read_bytes() for path in [*paths, *job.checkpoint(step).glob("rank-*")]}


@pytest.mark.parametrize(("ranks", "change"), [(1, {}), (2, {}), (4, FSDP)], ids=["1", "2-ddp", "4-fsdp"])
def test_the_loss_curve_is_the_golden_one(ranks: int, change: dict[str, Any], tmp_path: Path) -> None:
    """The stored curve comes from one rank; other processors and layouts only round differently.

    Where data or model are meant to change, run it for one rank with TEST_GOLDEN=write.
    """
    job = Job(tmp_path, merge(CURVE, change), "torchrun.fault_injection:draw_in_a_fixed_order")
    assert job.run(ranks) == [0] * ranks, job.text()
    curve = {"train": losses(job), "validation": job.events("evaluation")[-1]["validation"]}
    if os.environ.get("TEST_GOLDEN") == "write":
        GOLDEN.write_text(json.dumps(curve, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert curve["train"] == pytest.approx(golden["train"], rel=1e-3)
    assert curve["validation"] == pytest.approx(golden["validation"], rel=1e-3)
    assert golden["train"][-1] < 0.8 * golden["train"][0]


def test_one_process_under_torchrun_is_like_any_other(tmp_path: Path) -> None:
    few = {"steps": 2, "schedule": {"warmupSteps": 1}, **FSDP}
    under, beside = Job(tmp_path / "under", few), Job(tmp_path / "beside", few)
    assert under.run(torchrun=True) == [0], under.text()
    assert beside.run() == [0], beside.text()
    assert files(under, 2) == files(beside, 2)


def test_ranks_without_a_sample_join_in(tmp_path: Path) -> None:
    """3 samples for 4 ranks: one of them has none, and the update is that of a single rank."""
    few = {"steps": 4, "schedule": {"warmupSteps": 1}, "batch": {"globalBatchSize": 3, "microBatchSize": 1}}
    curves, seen = [], []
    for name, ranks, change in (("one", 1, {}), ("ddp", 4, {}), ("fsdp", 4, FSDP)):
        job = Job(tmp_path / name, merge(merge(CURVE, few), change), HOOK)
        watched = tmp_path / f"samples-{name}"
        assert job.run(ranks, TEST_SAMPLES=str(watched)) == [0] * ranks, job.text()
        curves.append(losses(job))
        seen.append(
            {
                step: [sample for record in records for sample in record["samples"] if any(sample)]
                for step, records in recorded(watched, ranks).items()
            }
        )
    assert seen[0] == seen[1] == seen[2]
    assert {len(samples) for samples in seen[0].values()} == {3}
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)
    assert curves[2] == pytest.approx(curves[0], rel=1e-5)


def test_checkpoints_load_at_another_world_size_and_sharding(tmp_path: Path) -> None:
    """Four layouts in turn train the same as one rank."""
    steady = merge(
        CURVE, {"schedule": {"kind": "constant", "warmupSteps": 2}, "evaluation": {"everySteps": 0}}
    )
    hook = "torchrun.fault_injection:record_samples_of_an_overflow"
    alone, job = Job(tmp_path / "alone", merge(steady, {"steps": 9})), Job(tmp_path / "moved", steady, hook)
    assert alone.run() == [0], alone.text()
    curve, watched = [], str(tmp_path / "samples")
    for number, (ranks, strategy) in enumerate([(2, "fsdp"), (4, "ddp"), (3, "fsdp")], start=1):
        job.write(steps=3 * number, distribution={"strategy": strategy})
        assert job.run(ranks, TEST_SAMPLES=watched, TEST_STEP="never") == [0] * ranks, job.text()
        assert job.events("training started")[0]["step"] == 3 * (number - 1)
        curve += losses(job)
    assert curve == pytest.approx(losses(alone), rel=1e-4)
    ours, theirs = (load_file(each.checkpoint(9) / "model.safetensors") for each in (job, alone))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-2, atol=1e-4, msg=name)
    # Resharded, gathered and saved after a skipped update: the same tensors, bit by bit.
    job.write(steps=10)
    assert job.run(2, TEST_SAMPLES=watched, TEST_STEP="10") == [0, 0], job.text()
    for name in ("model.safetensors", "optimizer.safetensors"):
        before, after = (load_file(job.checkpoint(step) / name) for step in (9, 10))
        assert list(before) == list(after)
        assert [key for key in before if not before[key].equal(after[key])] in ([], ["guard/counters"])


def test_sharded_ranks_killed_and_resumed_end_with_equal_bits(tmp_path: Path) -> None:
    """3 ranks do not divide the rows of most tensors; the default save is asynchronous."""
    change = merge(FSDP, {"clip": {"maxValue": 0.05, "adaptiveRatio": 0.1}, "optimizer": {"kind": "lion"}})
    straight, broken = Job(tmp_path / "a", change, HOOK), Job(tmp_path / "b", change, HOOK)
    assert straight.run(3, TEST_SAMPLES=str(tmp_path / "c")) == [0] * 3, straight.text()
    assert set(broken.run(3, TEST_SAMPLES=str(tmp_path / "d"), TEST_DEATH="13")) == {-signal.SIGKILL}
    assert broken.run(3, TEST_SAMPLES=str(tmp_path / "d")) == [0] * 3, broken.text()
    assert broken.events("training started")[0]["step"] in (5, 10)
    assert files(broken, 24) == files(straight, 24)


def test_two_torchrun_nodes_with_two_ranks_each_stop_together(tmp_path: Path) -> None:
    """SIGTERM to one of four ranks; other processes continue from what was saved, to the same bits."""
    change = {
        "steps": 1_000_000,
        "schedule": {"kind": "constant", "warmupSteps": 2},
        "checkpoint": {"everySteps": 1_000_000},
        "evaluation": {"everySteps": 0},
    }
    job = Job(tmp_path / "stopped", merge(FSDP, change), nodes=2)
    straight = Job(tmp_path / "straight", merge(FSDP, change))
    gang = job.start(4, torchrun=True)
    try:
        wait_until(lambda: job.step() > 1, "the second step", gang)
        os.kill(job.pids()[2], signal.SIGTERM)
        assert gang.wait() == [0, 0], job.text()
    finally:
        gang.kill()
    assert job.results() == ["Interrupted"] * 4
    (stopped,) = job.steps()
    assert {event["step"] for event in job.events("training ended")} == {stopped}
    for each in (job, straight):
        each.write(steps=stopped + 2)
        assert each.run(4) == [0] * 4, each.text()
    assert job.events("training started")[0]["step"] == stopped
    assert files(job, stopped + 2) == files(straight, stopped + 2)


def test_a_rank_that_hangs_ends_the_job_as_a_hang_and_is_named(tmp_path: Path) -> None:
    """Through the launcher, because the exit code is part of the contract."""
    training = {"steps": 1_000_000, "distribution": {"timeoutSeconds": 10}, "evaluation": {"everySteps": 0}}
    folder = tmp_path / "node"
    write_music(folder / "volume" / "midi")
    document = {"dataset": DATASET, "training": merge(TRAINING, training)}
    (folder / "job.yaml").write_text(yaml.safe_dump(document))
    launcher = RunningLauncher(folder, nproc_per_node=2)
    try:
        launcher.wait_for_progress("the second step", lambda progress: progress["step"] > 1)
        pid = json.loads((launcher.run_dir / "rank-1.json").read_text())["pid"]
        os.kill(pid, signal.SIGSTOP)
        assert launcher.wait() == 124, launcher.log.read_text()
    finally:
        launcher.stop()
    message = launcher.message()
    assert (message["class"], message["exception"]) == ("Hang", "HangError")
    assert "waited up to 10 s in step" in message["message"]
    assert "for rank 1, which did not answer" in message["message"]


SAMPLING = {
    "steps": 2,
    "schedule": {"warmupSteps": 1},
    "distribution": {"timeoutSeconds": 3},
    "evaluation": {"everySteps": 0, "music": {"everySteps": 2, "samples": 1}},
    "sample": {"count": 1, "maxTokens": 16, "everySteps": 1},
}
SAMPLE_SLOWLY = "torchrun.fault_injection:sample_slowly"


@pytest.mark.parametrize("change", [{}, FSDP], ids=["ddp", "fsdp"])
def test_sampling_may_take_longer_than_the_timeout(change: dict[str, Any], tmp_path: Path) -> None:
    job = Job(tmp_path, merge(SAMPLING, change), SAMPLE_SLOWLY)
    assert job.run(2, TEST_SECONDS="7") == [0, 0], job.text()
    assert len(list(job.directory.glob("samples/step-*/*.mid"))) == 2


def test_a_rank_that_hangs_while_it_samples_is_named(tmp_path: Path) -> None:
    job = Job(tmp_path, SAMPLING, SAMPLE_SLOWLY)
    gang = job.start(2, TEST_SECONDS="1000", TEST_SILENT="yes")
    try:
        wait_until((tmp_path / "run" / "failure-1.json").exists, "rank 1 noticed", gang)
    finally:
        gang.kill()
    failure = job.failure(1)
    assert failure["exception"] == "HangError", failure
    assert "for rank 0, which did not answer" in failure["message"]


def test_a_rank_that_dies_is_named_by_those_that_are_left(tmp_path: Path) -> None:
    job = Job(tmp_path, {"steps": 1_000_000, "evaluation": {"everySteps": 0}})
    gang = job.start(3)
    try:
        wait_until(lambda: job.step() > 1, "the second step", gang)
        os.kill(job.pids()[2], signal.SIGKILL)
        assert gang.wait() == [1, 1, -signal.SIGKILL], job.text()
    finally:
        gang.kill()
    failure = job.failure(0)
    assert (failure["exception"], failure["peer_lost"]) == ("PeerLostError", True)
    assert failure["message"].startswith("rank 2 disconnected in step ")


def test_what_else_a_loop_does_works_with_shards(tmp_path: Path) -> None:
    """Averaged weights, recomputed activations, gathered weights that are kept, music at the end."""
    change = merge(
        CURVE,
        {
            "steps": 8,
            "ema": {"decay": 0.8},
            "evaluation": {"everySteps": 3, "music": {"everySteps": 100, "samples": 1}},
            "memory": {"activationCheckpointing": "full"},
            "clip": {"maxNorm": 0.5},
            "sample": {"count": 1, "maxTokens": 16},
        },
    )
    shards = {"distribution": {"strategy": "fsdp", "reshardAfterForward": False}}
    whole, sharded = Job(tmp_path / "whole", change), Job(tmp_path / "sharded", merge(change, shards))
    for job in (whole, sharded):
        assert job.run(2) == [0, 0], job.text()
        assert len(list(job.directory.glob("samples/step-00000008/*.mid"))) == 1
        report = json.loads((job.directory / "evaluation" / "step-00000008.json").read_text())
        assert report["pieces"] == 1 and report["notes"] > 0
    assert losses(sharded) == pytest.approx(losses(whole), rel=1e-4)
    reported = [
        [(event["validation"], event["validation_ema"]) for event in job.events("evaluation")]
        for job in (whole, sharded)
    ]
    assert len(reported[0]) == 3
    for ours, theirs in zip(*reported, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
        assert ours[0] != pytest.approx(ours[1], rel=1e-6)
