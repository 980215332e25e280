"""Saving memory changes no result: recomputed activations, smaller micro-batches."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from torchrun.jobs import Job, merge
from torchrun.test_samples import recorded

SHORT: dict[str, Any] = {
    "steps": 6,
    "model": {"layers": 2, "dropout": 0.1},
    "schedule": {"warmupSteps": 1},
    "checkpoint": {"everySteps": 6, "asynchronous": False},
    "evaluation": {"everySteps": 0},
}


def bits(job: Job, step: int) -> dict[str, bytes]:
    """Weights, moments and random generators."""
    return {
        path.name: path.read_bytes()
        for path in job.checkpoint(step).iterdir()
        if path.suffix == ".safetensors" or path.name.startswith("rank-")
    }


FULL = {"activationCheckpointing": "full"}
SELECTIVE = {"activationCheckpointing": "selective"}
MANUAL = FULL | {"segments": ["blocks.0", "blocks.1.feedForward"]}


@pytest.mark.parametrize(
    ("ranks", "change", "choices"),
    [
        (1, {}, (SELECTIVE, FULL, MANUAL)),
        (2, {"precision": "bf16"}, (SELECTIVE,)),
        (2, {"distribution": {"strategy": "fsdp"}}, (FULL,)),
    ],
)
def test_activation_checkpointing_changes_no_bit(
    ranks: int, change: dict[str, Any], choices: tuple[dict[str, Any], ...], tmp_path: Path
) -> None:
    results = []
    for index, memory in enumerate(({}, *choices)):
        job = Job(tmp_path / str(index), SHORT | {"memory": memory} | change)
        assert job.run(ranks) == [0] * ranks, job.text()
        results.append(bits(job, 6))
    assert len(results[0]) == 2 + ranks
    assert all(result == results[0] for result in results[1:])


def test_an_unknown_segment_is_refused_with_what_there_is(tmp_path: Path) -> None:
    memory = {"activationCheckpointing": "full", "segments": ["blocks.0", "blocks.2"]}
    job = Job(tmp_path, SHORT | {"memory": memory})
    assert job.run() == [1]
    assert job.failure()["failure_class"] == "UserError"
    message = job.failure()["message"]
    assert message.startswith("training.memory.segments names 'blocks.2', which the model does not have")
    assert "blocks.0-1, blocks.0-1.attention, blocks.0-1.feedForward" in message


EXHAUSTED = SHORT | {
    "model": {"layers": 2, "dropout": 0.0},
    "batch": {"globalBatchSize": 8, "microBatchSize": 4},
    "checkpoint": {"everySteps": 2, "asynchronous": False, "keepLast": 5},
    "logging": {"everySteps": 1},
}
OUT = "torchrun.fault_injection:run_out_of_memory"


@pytest.mark.parametrize(
    ("ranks", "where", "width"), [(1, "backward", 16), (2, "forward", 16), (2, "backward", 192)]
)
def test_out_of_memory_on_one_rank_redoes_the_step_in_smaller_parts(
    ranks: int, where: str, width: int, tmp_path: Path
) -> None:
    """The same samples, the same loss, and nothing applied twice; the plan survives a death.

    At width 192 gradients travel in two buckets, of which the first is on its way when memory runs out.
    """
    change = merge(EXHAUSTED, {"model": {"dModel": width}, "optimizer": {"learningRate": 0.002}})
    place: dict[str, Any] = {"TEST_RANK": str(ranks - 1), "TEST_STEP": "3", "TEST_WHERE": where}
    healthy, broken = Job(tmp_path / "a", change, OUT), Job(tmp_path / "b", change, OUT)
    assert healthy.run(ranks, TEST_SAMPLES=str(tmp_path / "c"), TEST_FITS="99", **place) == [0] * ranks
    assert healthy.events("anomaly") == []
    variables: dict[str, Any] = {"TEST_SAMPLES": str(tmp_path / "d"), "TEST_FITS": "2", **place}
    assert broken.run(ranks, **variables) == [0] * ranks, broken.text()

    anomalies = broken.events("anomaly")
    assert {(each["kind"], each["action"]) for each in anomalies} == {("OutOfMemory", "reduce_batch_size")}
    sizes = [re.search(r"of (\d) samples instead of (\d)", each["reason"]) for each in anomalies]
    assert [found and found.groups() for found in sizes] == (
        [("3", "4"), ("2", "3")] if ranks == 1 else [("2", "4")]
    )
    seen, expected = recorded(tmp_path / "d", ranks), recorded(tmp_path / "c", ranks)
    for step in range(1, 7):  # the last record of a step is of the pass that was applied
        for mine, theirs in zip(seen[step], expected[step], strict=True):
            assert mine["samples"] == theirs["samples"]
            assert len(mine["valid"]) == len(theirs["valid"]) * (1 if step < 3 else 2)
    losses = [[event["train"] for event in job.events("step")] for job in (healthy, broken)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[1][:2] == losses[0][:2]
    for step in (2, 6):
        weights = [load_file(job.checkpoint(step) / "model.safetensors") for job in (healthy, broken)]
        for name, tensor in weights[0].items():
            torch.testing.assert_close(tensor, weights[1][name], rtol=1e-3, atol=1e-4)

    whole = bits(broken, 6)
    shutil.rmtree(broken.checkpoint(6))
    assert broken.run(ranks, **variables) == [0] * ranks, broken.text()
    started = broken.events("training started")[0]
    assert (started["step"], started["micro_batch_size"]) == (4, 2)
    assert bits(broken, 6) == whole


def test_out_of_memory_at_the_smallest_size_ends_the_job_with_a_reason(tmp_path: Path) -> None:
    job = Job(tmp_path, EXHAUSTED | {"memory": {"snapshotOnOutOfMemory": True}}, OUT)
    place: dict[str, Any] = {"TEST_RANK": "0", "TEST_STEP": "3", "TEST_WHERE": "forward", "TEST_FITS": "0"}
    assert job.run(2, TEST_SAMPLES=str(tmp_path / "samples"), **place) == [1, 1]
    for rank in (0, 1):
        assert job.failure(rank)["failure_class"] == "OutOfMemory"
        assert job.failure(rank)["message"].startswith(
            "Step 3 does not fit into memory with micro-batches of 1 samples, the fewest allowed"
        )
    actions = [(event["action"], event["step"]) for event in job.events("anomaly")]
    assert actions == [("reduce_batch_size", 2), ("reduce_batch_size", 2), ("stop", 2)]
    assert job.steps() == [2]
    (path,) = (job.directory / "memory").iterdir()
    table = json.loads(path.read_text())
    assert path.name == "out-of-memory-step-00000003-rank-0.json"
    assert table["tensorBytes"] >= sum(entry["bytes"] for entry in table["tensors"]) > 0
    assert "can't allocate memory" in table["reason"]


def test_restarts_for_want_of_memory_halve_the_size_once_each(tmp_path: Path) -> None:
    job = Job(tmp_path, EXHAUSTED | {"steps": 2})
    sizes = []
    for steps, restarts in ((2, "1"), (3, "1"), (4, "3"), (5, "")):
        job.write(steps=steps)
        assert job.run(AURL_OUT_OF_MEMORY_RESTARTS=restarts) == [0], job.text()
        sizes.append(job.events("training started")[0]["micro_batch_size"])
    assert sizes == [2, 2, 1, 1]
    assert job.run(AURL_OUT_OF_MEMORY_RESTARTS="two") == [1]
    assert "AURL_OUT_OF_MEMORY_RESTARTS is 'two'" in job.failure()["message"]


PROBED = EXHAUSTED | {
    "steps": 2,
    "contextLength": 256,
    "model": {"dModel": 128, "layers": 2},
    "batch": {"globalBatchSize": 32, "microBatchSize": 0, "minMicroBatchSize": 2, "maxMicroBatchSize": 8},
}
LIMIT = "torchrun.fault_injection:limit_memory"


def test_micro_batch_and_checkpointing_are_measured_and_kept(tmp_path: Path) -> None:
    change = PROBED | {
        "contextLength": 64,
        "model": {"layers": 2},
        "curriculum": {"kind": "linear", "startLength": 32},
        "memory": {"activationCheckpointing": "auto"},
    }
    job = Job(tmp_path, change, LIMIT)
    assert job.run(2) == [0, 0], job.text()
    probes = job.events("memory probe")
    assert [probe["activation_checkpointing"] for probe in probes] == ["none", "selective", "full"]
    assert [probe["micro_batch_size"] for probe in probes] == [8, 8, 8]
    started = job.events("training started")[0]
    fastest = max(probes, key=lambda probe: float(probe["tokens_per_second"]))
    assert started["activation_checkpointing"] == fastest["activation_checkpointing"]
    assert started["micro_batch_size"] == 16  # of half the context's length
    job.write(steps=3)
    assert job.run(2, TEST_SCARCE="1", TEST_LEFT="0") == [0, 0], job.text()
    assert job.events("memory probe") == []  # decided once
    again = job.events("training started")[0]
    assert again["activation_checkpointing"] == started["activation_checkpointing"]
    memory = json.loads((job.checkpoint(3) / "state.json").read_text())["memory"]
    assert memory["plan"]["micro_batch_size"] == 8

    profile = json.loads((job.directory / "memory" / "profile.json").read_text())
    assert (profile["step"], profile["memory"]) == (3, memory)
    assert [summary["rank"] for summary in profile["ranks"]] == [0, 1]
    for rank, summary in enumerate(profile["ranks"]):
        phases = {phase: peaks["rss"] for phase, peaks in summary["phases"].items()}
        assert phases.keys() >= {"initialise", "warm_up", "restore", "training", "evaluation", "checkpoint"}
        assert summary["peak"]["rss"]["bytes"] == max(phases.values()) > 50 * 2**20
        shown = json.loads((tmp_path / "run" / f"rank-{rank}.json").read_text())["memory_phases"]
        assert shown.keys() >= phases.keys()
    (logged,) = job.events("memory peaks")
    highest = max(profile["ranks"], key=lambda summary: int(summary["peak"]["rss"]["bytes"]))
    assert logged["rss"] == highest["peak"]["rss"] | {"rank": highest["rank"]}


def test_the_rank_with_least_memory_decides_for_all(tmp_path: Path) -> None:
    """8 samples are measured to take several times as much as 2; the limit lies in between."""
    job = Job(tmp_path, PROBED, LIMIT)
    assert job.run(2, TEST_SCARCE="1", TEST_LEFT=str(144 * 2**20)) == [0, 0], job.text()
    (probe,) = job.events("memory probe")
    started = job.events("training started")[0]
    assert 2 <= probe["micro_batch_size"] == started["micro_batch_size"] < 8
    assert probe["loads"][str(started["micro_batch_size"])] <= 1


def test_a_job_that_fits_in_no_size_says_so(tmp_path: Path) -> None:
    batch = {"globalBatchSize": 8, "microBatchSize": 0}
    job = Job(tmp_path, EXHAUSTED | {"batch": batch}, "torchrun.fault_injection:limit_memory")
    job.write(memory={})
    assert job.run(TEST_SCARCE="0", TEST_LEFT="0") == [1]
    assert job.failure()["failure_class"] == "OutOfMemory"
    assert "A micro-batch of 4 samples does not fit into memory" in job.failure()["message"]
