"""Bad stretches: all ranks roll back and skip the data, and a death during that changes nothing."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from torchrun.jobs import Job

HOOK = "torchrun.fault_injection:spoil_data"
STEP = 6 * 16
"""Tokens per step."""
CHANGE: dict[str, Any] = {
    "steps": 30,
    "checkpoint": {"everySteps": 2, "keepLast": 1, "asynchronous": False},
    "evaluation": {"everySteps": 0},
    "logging": {"everySteps": 1},
    "optimizer": {"learningRate": 0.005},
    "stability": {
        "lossSpike": {"intervals": 3, "window": 12, "sigma": 4},
        "lossDivergence": {"intervals": 0},
        "underfitting": {"after": 0},
        "throughputDegradation": {"intervals": 0},  # these two watch the clock
        "dataStarvation": {"intervals": 0},
        "maxConsecutiveSkips": 3,
    },
}


def run(job: Job, ranks: int, spoil: str, death: str = "") -> list[int]:
    """Run with spoilt data in steps 18 to 23 of an uninterrupted run."""
    return job.run(
        ranks,
        TEST_FROM=str(17 * STEP),
        TEST_TO=str(23 * STEP),
        TEST_SPOIL=spoil,
        TEST_RANK=str(ranks - 1),
        TEST_ROLLBACK_DEATH=death,
        TEST_SAMPLES=str(job.root / "samples"),
    )


def last_checkpoint(job: Job) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in job.checkpoint(30).iterdir()}


def anomalies(job: Job) -> list[tuple[int, str, str]]:
    return [(event["step"], event["kind"], event["action"]) for event in job.events("anomaly")]


@pytest.mark.parametrize(
    ("spoil", "ranks", "strategy"), [("targets", 1, "ddp"), ("targets", 2, "ddp"), ("nan", 2, "fsdp")]
)
def test_a_bad_stretch_is_rolled_back_also_over_deaths(
    spoil: str, ranks: int, strategy: str, tmp_path: Path
) -> None:
    change = {**CHANGE, "distribution": {"strategy": strategy}}
    straight = Job(tmp_path / "straight", change, HOOK)
    assert run(straight, ranks, spoil) == [0] * ranks, straight.text()

    # Step 18 is the first bad one, and the third in a row acts. The checkpoint of step 18 exists by then and
    # is not healthy. The first roll-back skips steps 17 to 20, so three more spoilt ones follow: the second
    # skips twice the data between step 16 and there.
    kind = "NonFinite" if spoil == "nan" else "LossSpike"
    seen = anomalies(straight)
    assert [entry for entry in seen if entry[2] == "rollback"] == [
        (20, kind, "rollback"),
        (19, kind, "rollback"),
    ]
    assert {entry[1:] for entry in seen} == {(kind, "skip" if spoil == "nan" else "warn"), (kind, "rollback")}
    progress = json.loads((straight.checkpoint(30) / "state.json").read_text())["progress"]
    assert progress["rollbacks"] == 2
    assert progress["skipped_windows"] == [[16 * STEP, (16 + 2 * 7) * STEP]]
    assert progress["tokens"] == (30 + 14) * STEP
    assert progress["learning_rate_factor"] == 0.25
    reported: dict[str, Any] = json.loads((straight.root / "run" / "rank-0.json").read_text())
    assert (reported["job"]["rollbacks"], reported["job"]["lost_steps"]) == (2, 4 + 3)
    assert reported["job"]["anomalies"][kind]["rollback"] == 2
    rates = {event["step"]: event["learning_rate"] for event in straight.events("step")}
    assert rates[16] > 0.003
    assert rates[17] < 0.26 * rates[16]
    final = [event["train"] for event in straight.events("step")][-10:]
    assert max(final) < 4.3

    for death in ("before", "deletion", "after"):
        job = Job(tmp_path / death, change, HOOK)
        assert -signal.SIGKILL in run(job, ranks, spoil, death)
        assert run(job, ranks, spoil) == [0] * ranks, job.text()
        assert last_checkpoint(job) == last_checkpoint(straight)


def test_the_budget_of_rollbacks_ends_the_job(tmp_path: Path) -> None:
    job = Job(tmp_path, {**CHANGE, "stability": {**CHANGE["stability"], "maxRollbacks": 1}}, HOOK)
    assert run(job, 1, "targets") == [1]
    assert job.failure()["failure_class"] == "Divergence"
    assert "after 1 roll-back(s), and stability.maxRollbacks is 1: lower" in job.failure()["message"]
    assert anomalies(job)[-1] == (19, "LossSpike", "stop")
    assert job.steps()[-1] == 18


def test_a_bad_beginning_has_nothing_to_go_back_to(tmp_path: Path) -> None:
    job = Job(tmp_path, {**CHANGE, "checkpoint": {"everySteps": 25}}, HOOK)
    assert run(job, 1, "nan") == [1]
    assert "there is no healthy checkpoint to roll back to" in job.failure()["message"]
    assert job.steps() == []


def test_a_first_step_that_is_not_finite_is_only_skipped(tmp_path: Path) -> None:
    """The first finite loss takes the place of the first one; without it every loss would be a divergence."""
    stability = {**CHANGE["stability"], "lossDivergence": {"intervals": 3}, "underfitting": {"after": 0.5}}
    job = Job(tmp_path, {**CHANGE, "stability": stability}, HOOK)
    samples = str(tmp_path / "samples")
    codes = job.run(
        1, TEST_FROM="0", TEST_TO=str(STEP), TEST_SPOIL="nan", TEST_RANK="0", TEST_SAMPLES=samples
    )
    assert codes == [0], job.text()
    assert anomalies(job) == [(1, "NonFinite", "skip")]
    progress = json.loads((job.checkpoint(30) / "state.json").read_text())["progress"]
    assert progress["initial_loss"] == pytest.approx(job.events("step")[1]["train"], rel=1e-3)
