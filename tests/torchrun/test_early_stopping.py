"""Early stopping and the plateau schedule, exact across a death."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from torchrun.jobs import Job

HOOK = "torchrun.fault_injection:record_samples"
BASE: dict[str, Any] = {
    "checkpoint": {"everySteps": 5, "keepLast": 1, "keepBest": 0, "asynchronous": False},
    "evaluation": {"everySteps": 4},
    "logging": {"everySteps": 1},
}
NEVER = {"patience": 2, "minDelta": 9.0}
"""No loss falls by this much: the first evaluation stays the best, and every second one after it acts."""


def files(job: Job, step: int) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in job.checkpoint(step).iterdir()}


def broken_run(straight: Job, job: Job, death: str) -> None:
    """Run both jobs to the end, one of them with a death."""
    assert straight.run(TEST_SAMPLES=str(straight.root / "samples")) == [0], straight.text()
    samples = str(job.root / "samples")
    assert job.run(TEST_SAMPLES=samples, TEST_DEATH=death) == [-signal.SIGKILL], job.text()
    assert job.run(TEST_SAMPLES=samples) == [0], job.text()


def test_training_ends_early_with_the_best_weights(tmp_path: Path) -> None:
    change = {**BASE, "earlyStopping": NEVER}
    straight, broken = Job(tmp_path / "a", change, HOOK), Job(tmp_path / "b", change, HOOK)
    broken_run(straight, broken, death="11")
    for job in (straight, broken):
        assert job.steps() == [4, 12]  # step 4 was saved and kept because it is the best
        assert job.results() == ["Finished"]
        result = json.loads((job.root / "run" / "result-0.json").read_text())
        reported = json.loads((job.root / "run" / "rank-0.json").read_text())["job"]
        assert result["reason"] == reported["stop_reason"]
        assert "early at step 12 of 24: The validation loss has not improved for 2" in result["reason"]
        assert result["reason"].endswith("The weights are those of step 4.")
        assert reported["anomalies"]["LossPlateau"]["stop_early"] == 1
    assert files(straight, 12) == files(broken, 12)
    ends, best = (load_file(straight.checkpoint(step) / "model.safetensors") for step in (12, 4))
    assert all(ends[name].equal(best[name]) for name in best)
    evaluations = [event["validation"] for event in straight.events("evaluation")]
    state = json.loads((straight.checkpoint(12) / "state.json").read_text())["progress"]
    assert state["validation_loss"] == evaluations[0] != evaluations[2]

    before = files(straight, 12)
    assert straight.run(TEST_SAMPLES=str(tmp_path / "again")) == [0]  # it stays ended
    assert files(straight, 12) == before
    assert json.loads((straight.root / "run" / "result-0.json").read_text())["reason"]


def test_plateau_schedule_resumes_exactly(tmp_path: Path) -> None:
    change = {**BASE, "schedule": {"kind": "plateau", "factor": 0.4, "finalRatio": 0.1, **NEVER}}
    straight, broken = Job(tmp_path / "a", change, HOOK), Job(tmp_path / "b", change, HOOK)
    broken_run(straight, broken, death="19")
    rates = {event["step"]: event["learning_rate"] for event in straight.events("step")}
    expected = {5: 1.0, 16: 1.0, 17: 0.4, 24: 0.4}  # the first evaluation is during the warm-up
    assert {step: round(rates[step] / 0.01, 6) for step in expected} == expected
    assert files(straight, 24) == files(broken, 24)
    reported = [event["reason"] for event in straight.events("anomaly") if event["kind"] == "LossPlateau"]
    assert len(reported) == 2
    assert reported[0].endswith("The learning rate is × 0.4 from now on.")
