"""Reading job files: both forms, and errors that name the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aurl_trainer.config import JobFile
from aurl_trainer.errors import UserError

DATASET: dict[str, Any] = {"source": {"directory": {"path": "midi"}}}


def test_bare_file_and_whole_resource_are_the_same_job() -> None:
    bare = JobFile.parse({"dataset": DATASET, "training": {"steps": 7}}, "job.yaml")
    whole = JobFile.parse(
        {
            "apiVersion": "aurl.ai/v1alpha1",
            "kind": "AurlTrainingJob",
            "spec": {"numNodes": 2, "dataset": DATASET, "training": {"steps": 7}},
        },
        "job.yaml",
    )
    assert bare == whole
    assert bare.training.steps == 7
    assert JobFile.parse(bare.model_dump(mode="json", by_alias=True), "again") == bare


@pytest.mark.parametrize(
    ("training", "complaint"),
    [
        ({"stepz": 3}, "training.stepz: unknown key"),
        ({"steps": 0}, "training.steps: "),
        ({"precision": "fp8"}, "training.precision: "),
        (
            {"model": {"dModel": 10, "heads": 4}},
            "training.model: dModel 10 must be a multiple of 2 × heads = 8",
        ),
        ({"batch": {"globalBatchSize": 0}}, "training.batch.globalBatchSize: "),
        ({"optimizer": {"learningRate": "fast"}}, "training.optimizer.learningRate: "),
        (
            {"optimizer": {"kind": "lion", "epsilon": 1e-6}},
            "training.optimizer: epsilon has no effect with kind lion: leave it out.",
        ),
        (
            {"evaluation": {"everySteps": 0}, "earlyStopping": {"patience": 2}},
            "earlyStopping.patience needs the validation loss, and evaluation.everySteps is 0: set it",
        ),
        (
            {"evaluation": {"everySteps": 0}, "schedule": {"kind": "plateau"}},
            "schedule.kind plateau needs the validation loss, and evaluation.everySteps is 0: set it",
        ),
        (
            {"earlyStopping": {"minDelta": 0.1}},
            "training.earlyStopping: minDelta has no effect with patience 0: leave it out.",
        ),
        (
            {"schedule": {"patience": 3}},
            "training.schedule: patience has no effect with kind cosine: leave it out.",
        ),
        (
            {"stability": {"lossSpike": {"action": "skip"}}},
            "training.stability.lossSpike.action: ",
        ),
        (
            {"optimizer": {"kind": "adafactor", "beta1": 0.8}},
            "training.optimizer: beta1 has no effect with kind adafactor: leave it out.",
        ),
        (
            {"hooks": {"losses": [{"name": "a", "function": "no colon"}]}},
            "training.hooks.losses[0].function: ",
        ),
        (
            {"hooks": {"metrics": [{"name": "a", "function": "m:f"}, {"name": "a", "function": "m:g"}]}},
            "training.hooks: metrics has two hooks named a: give each a unique name.",
        ),
        (
            {"schedule": {"power": 3}},
            "training.schedule: power has no effect with kind cosine: leave it out.",
        ),
        (
            {"optimizer": {"weightDecaySchedule": {"kind": "linear"}}},
            "training.optimizer.weightDecaySchedule: kind linear needs final, the value of the last step.",
        ),
        (
            {"steps": 10, "schedule": {"warmupSteps": 11}},
            "training: schedule.warmupSteps 11 is more than steps 10: the peak learning rate would never be "
            "reached; lower it.",
        ),
        (
            {"schedule": {"kind": "constant", "finalRatio": 0.5}},
            "training.schedule: finalRatio has no effect with kind constant: leave it out.",
        ),
        (
            {"compile": True, "dropoutSchedule": {"kind": "linear", "final": 0}},
            "training: compile would recompile the model at every change of dropoutSchedule",
        ),
        ({"device": "cpu", "tf32": True}, "training: tf32 has no effect with device cpu: leave it out"),
        (
            {"checkpoint": {"everySteps": 20, "keepEverySteps": 50}},
            "training: checkpoint.keepEverySteps 50 is not a multiple of checkpoint.everySteps 20",
        ),
        (
            {"checkpoint": {"retries": 0, "retrySeconds": 5}},
            "training.checkpoint: retrySeconds has no effect with retries 0: leave it out.",
        ),
        (
            {"ema": {"warmup": False}},
            "training.ema: warmup has no effect with decay 0: leave it out.",
        ),
        (
            {"curriculum": {"startLength": 64}},
            "training.curriculum: startLength has no effect with kind none: leave it out.",
        ),
        (
            {"curriculum": {"kind": "step", "startLength": 64, "rampFraction": 0.9}},
            "training.curriculum: rampFraction has no effect with kind step: leave it out.",
        ),
        (
            {"model": {"dModel": 8, "heads": 1, "mlpRatio": 0.1}},
            "training.model: mlpRatio 0.1 leaves nothing of dModel 8 for the feed-forward part: raise it.",
        ),
        (
            {"dropoutSchedule": {"final": 0.1}},
            "training.dropoutSchedule: final has no effect with kind constant: set kind to linear or cosine.",
        ),
        (
            {"dropoutSchedule": {"kind": "cosine", "final": 1}},
            "training: dropoutSchedule.final 1.0 would drop everything: set it below 1.",
        ),
        (
            {"distribution": {"strategy": "fsdp"}, "optimizer": {"kind": "adafactor"}},
            "training: optimizer.kind adafactor needs whole matrices, and distribution.strategy fsdp shards",
        ),
    ],
)
def test_faults_are_told_with_their_path(training: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError) as error:
        JobFile.parse({"dataset": DATASET, "training": training}, "job.yaml")
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("a: [", "not valid YAML"), ("- 1", "must hold a mapping"), (None, "cannot be read")],
)
def test_unreadable_files(text: str | None, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=complaint):
        JobFile.load(path)


@pytest.mark.parametrize(
    ("training", "key"),
    [
        ({"checkpoint": {"keepBest": 3}}, "training.checkpoint.keepBest"),
        ({"hooks": {"metrics": [{"name": "a", "function": "m:f"}]}}, "training.hooks.metrics"),
        ({"earlyStopping": {"patience": 2}}, "training.earlyStopping"),
        ({"schedule": {"kind": "plateau"}}, "training.schedule.kind plateau"),
    ],
)
def test_what_needs_held_out_pieces_is_refused_without(training: dict[str, Any], key: str) -> None:
    dataset = DATASET | {"split": {"validationFraction": 0}}
    JobFile.parse({"dataset": dataset}, "job.yaml")
    with pytest.raises(UserError, match=f"{key} needs held-out pieces"):
        JobFile.parse({"dataset": dataset, "training": training}, "job.yaml")


def test_a_resolved_file_of_a_short_job_is_the_same_job() -> None:
    """Defaults that are spelt out still count as defaults: the warm-up is capped, not refused."""
    job = JobFile.parse({"dataset": DATASET, "training": {"steps": 3}}, "job.yaml")
    assert JobFile.parse(job.model_dump(mode="json", by_alias=True), "resolved") == job
