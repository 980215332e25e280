"""The user's extra losses and evaluation metrics, with the example from the documentation."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from torchrun.jobs import Job, merge

PAGE = Path(__file__).resolve().parents[2] / "docs" / "hooks.md"
RECORD = "torchrun.fault_injection:record_samples"


def example() -> tuple[str, dict[str, Any]]:
    """The module and the part of a job file from docs/hooks.md."""
    text = PAGE.read_text()
    blocks = {kind: re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("python", "yaml")}
    (module,), (training,) = blocks["python"], blocks["yaml"]
    return module, yaml.safe_load(training)["training"]


def job_with_hooks(root: Path, module: str, change: dict[str, Any]) -> Job:
    job = Job(root, change, RECORD)
    (root / "hooks").mkdir()
    (root / "hooks" / "music_hooks.py").write_text(module)
    return job


def test_the_documented_example_trains_and_measures(tmp_path: Path) -> None:
    module, training = example()
    short = {
        "steps": 9,
        "schedule": {"warmupSteps": 1},
        "evaluation": {"everySteps": 9, "batches": 100},
        "model": {"dropout": 0},
        "checkpoint": {"asynchronous": False},
    }
    jobs = {}
    for ranks in (1, 2):
        job = job_with_hooks(tmp_path / str(ranks), module, merge(short, training))
        assert job.run(ranks, TEST_SAMPLES=str(tmp_path / "samples")) == [0] * ranks, job.text()
        jobs[ranks] = job
    reported = [event["term_z_loss"] for event in jobs[1].events("step")]
    # Before training all tokens are about equally likely: logits are near 0, and loss and z are log V.
    assert reported[0] == pytest.approx(
        float(torch.tensor(jobs[1].events("step")[0]["train"]).square()), rel=0.05
    )
    assert reported == pytest.approx([event["term_z_loss"] for event in jobs[2].events("step")], rel=1e-4)
    (metrics,) = jobs[1].events("metrics")
    assert 0 < metrics["accuracy"] < 1
    assert metrics["accuracy"] == pytest.approx(jobs[2].events("metrics")[0]["accuracy"], abs=0.02)
    snapshot = json.loads((jobs[1].root / "run" / "rank-0.json").read_text())["job"]
    assert snapshot["metrics"]["terms"] == {"z_loss": reported[-1]}
    assert snapshot["evaluation"]["accuracy"] == metrics["accuracy"]


def test_a_term_moves_the_weights_by_its_weight_and_resumes_exactly(tmp_path: Path) -> None:
    module, training = example()
    change = merge({"steps": 12, "checkpoint": {"asynchronous": False}}, training)
    jobs = [job_with_hooks(tmp_path / name, module, change) for name in ("whole", "broken", "without")]
    whole, broken, without = jobs
    del without.training["hooks"]
    without.write()
    for job in (whole, without):
        assert job.run(TEST_SAMPLES=str(tmp_path / "samples")) == [0], job.text()
    # Step 7 is not logged: the checkpoint of step 5 holds a part of the interval that ends with step 8.
    codes = broken.run(TEST_SAMPLES=str(tmp_path / "samples"), TEST_DEATH="7")
    assert codes == [-signal.SIGKILL]
    assert broken.run(TEST_SAMPLES=str(tmp_path / "samples")) == [0], broken.text()
    assert broken.events("training started")[0]["step"] == 5
    terms = [{event["step"]: event["term_z_loss"] for event in job.events("step")} for job in (whole, broken)]
    assert terms[1] == {step: value for step, value in terms[0].items() if step > 5}
    weights = [(job.checkpoint(12) / "model.safetensors").read_bytes() for job in (whole, broken)]
    assert weights[0] == weights[1]
    other = load_file(without.checkpoint(12) / "model.safetensors")
    mine = load_file(whole.checkpoint(12) / "model.safetensors")
    assert not other["embedding.weight"].equal(mine["embedding.weight"])


def test_what_a_hook_raises_is_told_with_its_name(tmp_path: Path) -> None:
    hooks = {"path": "hooks", "losses": [{"name": "beat", "function": "music_hooks:boom"}]}
    change = {"steps": 1, "schedule": {"warmupSteps": 0}, "hooks": hooks}
    job = job_with_hooks(tmp_path, "def boom(batch):\n    raise KeyError('tempo')\n", change)
    assert job.run(TEST_SAMPLES=str(tmp_path / "samples")) == [1]
    assert job.failure()["failure_class"] == "UserError"
    assert "The loss hook beat (music_hooks:boom) raised KeyError: 'tempo'" in job.failure()["message"]
