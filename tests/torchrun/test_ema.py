"""The average of the weights in the loop: exact after a death, evaluated, sampled, used for keepBest."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from torchrun.jobs import Job

HOOK = "torchrun.fault_injection:record_samples_of_an_overflow"
EMA = {
    "ema": {"decay": 0.9},
    "evaluation": {"everySteps": 5},
    "checkpoint": {"everySteps": 5, "asynchronous": False, "keepLast": 2},
    "steps": 15,
}


@pytest.mark.parametrize(("ranks", "strategy"), [(1, "ddp"), (2, "fsdp")])
def test_the_average_survives_a_death_and_skips_what_was_refused(
    ranks: int, strategy: str, tmp_path: Path
) -> None:
    change = EMA | {"distribution": {"strategy": strategy}}
    straight, broken = Job(tmp_path / "a", change, HOOK), Job(tmp_path / "b", change, HOOK)
    # The gradient of step 7 is not finite.
    assert straight.run(ranks, TEST_SAMPLES=str(tmp_path / "c"), TEST_STEP="7") == [0] * ranks, (
        straight.text()
    )
    codes = broken.run(ranks, TEST_SAMPLES=str(tmp_path / "d"), TEST_STEP="7", TEST_DEATH="13")
    assert set(codes) == {-signal.SIGKILL}
    assert broken.run(ranks, TEST_SAMPLES=str(tmp_path / "d"), TEST_STEP="7") == [0] * ranks, broken.text()
    assert broken.events("training started")[0]["step"] == 10
    for name in ("model.safetensors", "optimizer.safetensors", "ema.safetensors"):
        files = [(job.checkpoint(15) / name).read_bytes() for job in (straight, broken)]
        assert files[0] == files[1]
    weights, average = (
        load_file(straight.checkpoint(15) / name) for name in ("model.safetensors", "ema.safetensors")
    )
    assert weights.keys() == average.keys()
    assert not any(weights[name].equal(average[name]) for name in weights)
    assert float(load_file(straight.checkpoint(15) / "optimizer.safetensors")["ema/updates"]) == 14

    reported = straight.events("evaluation")
    assert [event["step"] for event in reported] == [5, 10, 15]
    assert all(event["validation"] != event["validation_ema"] for event in reported)
    snapshot = json.loads((tmp_path / "a" / "run" / "rank-0.json").read_text())["job"]
    assert snapshot["validation"]["ema_loss"] == reported[-1]["validation_ema"]
    progress = json.loads((straight.checkpoint(10) / "state.json").read_text())["progress"]
    assert progress["validation_step"] == 10
    assert progress["validation_loss"] == reported[1]["validation"]
    assert progress["ema_validation_loss"] == reported[1]["validation_ema"]


def test_an_average_can_begin_in_the_middle_and_the_best_checkpoint_stays(tmp_path: Path) -> None:
    # At this learning rate the second half forgets what the first learned.
    change = {
        "steps": 10,
        "evaluation": {"everySteps": 2},
        "checkpoint": {"everySteps": 2, "keepLast": 1},
        "schedule": {"kind": "constant"},
    }
    job = Job(tmp_path, change)
    assert job.run() == [0], job.text()
    losses = {event["step"]: event["validation"] for event in job.events("evaluation")}
    job.write(steps=20, optimizer={"learningRate": 3.0}, ema={"decay": 0.5})
    assert job.run() == [0], job.text()
    assert job.events("the checkpoint has no average of the weights: it starts from the weights")
    losses |= {event["step"]: event["validation_ema"] for event in job.events("evaluation")}
    best = min(losses, key=lambda step: losses[step])
    assert best != 20
    assert job.steps() == [best, 20]
