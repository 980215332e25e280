"""The samples of each step, under a curriculum and with any world size."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aurl_trainer.optim.guard import INITIAL_SCALE, NONFINITE
from torchrun.jobs import Job

HOOK = "torchrun.fault_injection:record_samples"
CURRICULUM = {
    "contextLength": 32,
    "curriculum": {"kind": "linear", "startLength": 8, "rampFraction": 0.5},
    "checkpoint": {"everySteps": 3, "keepLast": 2, "asynchronous": False},
    "logging": {"everySteps": 1},
}
VARIED = {"augmentation": {"transposeSemitones": 3}, "windowOverlap": 0.25}
LENGTHS = {step: 8 if step < 5 else 16 if step < 13 else 32 for step in range(1, 25)}


def recorded(path: Path, ranks: int = 1) -> dict[int, list[dict[str, Any]]]:
    """Return the last record of each rank for each step."""
    steps: dict[int, dict[int, dict[str, Any]]] = {}
    for rank in range(ranks):
        for line in Path(f"{path}-{rank}").read_text().splitlines():
            record = json.loads(line)
            steps.setdefault(record["step"], {})[rank] = record
    return {step: [records[rank] for rank in range(ranks)] for step, records in steps.items()}


@pytest.mark.parametrize("ranks", [1, 2])
def test_curriculum_is_trained_on_and_survives_death_before_each_boundary(ranks: int, tmp_path: Path) -> None:
    straight, watched = Job(tmp_path / "straight", CURRICULUM, HOOK, dataset=VARIED), tmp_path / "a"
    assert straight.run(ranks, TEST_SAMPLES=str(watched)) == [0] * ranks, straight.text()
    seen = recorded(watched, ranks)
    for step, length in LENGTHS.items():
        samples = [sample for record in seen[step] for sample in record["samples"]]
        assert {len(sample) for sample in samples} == {length}
        assert len(samples) * length == 6 * 32
    shown = [(event["step"], event["sequence_length"]) for event in straight.events("step")]
    assert shown == list(LENGTHS.items())
    reported = json.loads((tmp_path / "straight" / "run" / "rank-0.json").read_text())["job"]
    assert (reported["metrics"]["sequence_length"], reported["metrics"]["batch_size"]) == (32, 6)
    assert reported["samples"] == sum(6 * 32 // length for length in LENGTHS.values())

    broken, again = Job(tmp_path / "broken", CURRICULUM, HOOK, dataset=VARIED), tmp_path / "b"
    for death in ("5", "12"):
        gang = broken.start(ranks, TEST_SAMPLES=str(again), TEST_DEATH=death)
        assert set(gang.wait()) == {-signal.SIGKILL}
    assert broken.run(ranks, TEST_SAMPLES=str(again)) == [0] * ranks, broken.text()
    assert recorded(again, ranks) == seen
    for name in ("model.safetensors", "optimizer.safetensors"):
        files = [(job.checkpoint(24) / name).read_bytes() for job in (straight, broken)]
        assert files[0] == files[1]


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "lion": {
        "optimizer": {"kind": "lion", "learningRate": 0.002, "beta2": 0.99},
        "schedule": {"kind": "polynomial", "power": 1.5},
        "clip": {"maxValue": 0.05},
    },
    "adafactor": {
        "optimizer": {
            "kind": "adafactor",
            "weightDecay": 0.2,
            "weightDecaySchedule": {"kind": "cosine", "final": 0},
        },
        "dropoutSchedule": {"kind": "linear", "final": 0},
        "clip": {"adaptiveRatio": 0.5},
    },
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_other_optimizers_schedules_and_clippings_resume_exactly(kind: str, tmp_path: Path) -> None:
    change = OPTIMIZERS[kind] | {"checkpoint": {"asynchronous": False}}
    straight, broken = Job(tmp_path / "a", change, HOOK), Job(tmp_path / "b", change, HOOK)
    assert straight.run(TEST_SAMPLES=str(tmp_path / "c")) == [0], straight.text()
    losses = [event["train"] for event in straight.events("step")]
    assert losses[-1] < 0.9 * losses[0]
    assert broken.run(TEST_SAMPLES=str(tmp_path / "d"), TEST_DEATH="13") == [-signal.SIGKILL]
    assert broken.run(TEST_SAMPLES=str(tmp_path / "d")) == [0], broken.text()
    for name in ("model.safetensors", "optimizer.safetensors"):
        files = [(job.checkpoint(24) / name).read_bytes() for job in (straight, broken)]
        assert files[0] == files[1]
    broken.training["optimizer"] = {}
    broken.write(steps=25)
    assert broken.run(TEST_SAMPLES=str(tmp_path / "d")) == [1]
    assert "was saved by another optimizer" in broken.failure()["message"]


def test_every_world_size_trains_on_the_same_samples_in_the_same_order(tmp_path: Path) -> None:
    """Also where the ranks' shares and their last micro-batches are uneven: 6 samples, in passes of 2."""
    change = {"steps": 6, "schedule": {"warmupSteps": 1}, "evaluation": {"everySteps": 0}}
    seen = {}
    for ranks in (1, 2, 4):
        job = Job(tmp_path / str(ranks), change, HOOK, dataset=VARIED)
        watched = tmp_path / f"samples-{ranks}"
        assert job.run(ranks, TEST_SAMPLES=str(watched)) == [0] * ranks, job.text()
        seen[ranks] = {
            step: [sample for record in records for sample in record["samples"]]
            for step, records in recorded(watched, ranks).items()
        }
    assert seen[1] == seen[2] == seen[4]
    assert list(seen[1]) == [1, 2, 3, 4, 5, 6]


def test_accumulation_weighs_tokens_and_not_micro_batches(tmp_path: Path) -> None:
    """One pass of 8 samples equals 8 passes of one, with different numbers of valid tokens."""
    change = {
        "steps": 12,
        "contextLength": 48,  # does not divide the split
        "model": {"dropout": 0.0},
        "checkpoint": {"everySteps": 12},
        "logging": {"everySteps": 1},
        "optimizer": {"learningRate": 0.001},
    }
    jobs, passes = [], []
    for size in (8, 1):
        batch = {"batch": {"globalBatchSize": 8, "microBatchSize": size}}
        job, watched = Job(tmp_path / str(size), change | batch, HOOK), tmp_path / f"samples-{size}"
        assert job.run(TEST_SAMPLES=str(watched)) == [0], job.text()
        jobs.append(job)
        records = [records[0] for records in recorded(watched).values()]
        passes.append([record["valid"] for record in records])
    assert [{len(counts) for counts in each} for each in passes] == [{1}, {8}]
    assert any(max(counts) - min(counts) > 12 for counts in passes[1])  # the padding of an epoch's last block
    assert [sum(counts) for counts in passes[0]] == [sum(counts) for counts in passes[1]]
    losses = [[event["train"] for event in job.events("step")] for job in jobs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    weights = [load_file(job.checkpoint(12) / "model.safetensors") for job in jobs]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_resumes_exactly_with_its_loss_scale(precision: str, tmp_path: Path) -> None:
    change = {"precision": precision, "checkpoint": {"asynchronous": False}, "steps": 12}
    broken_hook = "torchrun.fault_injection:record_samples_of_an_overflow"
    straight, broken = Job(tmp_path / "a", change, broken_hook), Job(tmp_path / "b", change, broken_hook)
    # The gradient of step 3 overflows: from there on the loss scale is not that of a new guard.
    assert straight.run(TEST_SAMPLES=str(tmp_path / "c"), TEST_STEP="3") == [0], straight.text()
    losses = [event["train"] for event in straight.events("step")]
    assert losses[-1] < losses[0]
    assert broken.run(TEST_SAMPLES=str(tmp_path / "d"), TEST_STEP="3", TEST_DEATH="9") == [-signal.SIGKILL]
    middle = load_file(broken.checkpoint(5) / "optimizer.safetensors")
    assert float(middle["guard/scale"]) == (INITIAL_SCALE / 2 if precision == "fp16" else 1.0)
    assert middle["guard/counters"].tolist()[NONFINITE] == 1
    assert broken.run(TEST_SAMPLES=str(tmp_path / "d"), TEST_STEP="3") == [0], broken.text()
    assert broken.events("training started")[0]["step"] == 5
    for name in ("model.safetensors", "optimizer.safetensors"):
        files = [(job.checkpoint(12) / name).read_bytes() for job in (straight, broken)]
        assert files[0] == files[1]
