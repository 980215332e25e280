"""`aurl-trainer checkpoints` and `sample` on the checkpoints of a real job."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aurl_trainer.cli.main import run
from aurl_trainer.data.shards import Dataset
from aurl_trainer.export.saved_model import WeightsKind, open_model
from aurl_trainer.model.transformer import token_loss_sum
from torchrun.jobs import Job, merge

CHANGE = {
    "steps": 12,
    "ema": {"decay": 0.8},
    "evaluation": {"everySteps": 4, "batches": 1000},
    "checkpoint": {"everySteps": 4, "keepLast": 3},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job with three checkpoints."""
    job = Job(tmp_path_factory.mktemp("trained"), CHANGE)
    assert job.run() == [0], job.text()
    assert job.steps() == [4, 8, 12]
    return job


def output_of(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    """Run one command in this process and return what it printed."""
    capsys.readouterr()
    assert run([str(argument) for argument in arguments]) == code
    printed = capsys.readouterr()
    return printed.out if code < 2 else printed.err


def json_of(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(output_of(capsys, *arguments, "--json", code=code))
    return value


def test_list_tells_the_validation_loss_and_the_best(
    trained: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = json_of(capsys, "checkpoints", "list", "--job-dir", trained.directory)["checkpoints"]
    losses = {event["step"]: event["validation_ema"] for event in trained.events("evaluation")}
    assert {entry["step"]: entry["validation_loss"] for entry in entries} == losses
    assert [entry["step"] for entry in entries if entry["best"]] == [min(losses, key=lambda s: losses[s])]
    assert "best" in output_of(capsys, "checkpoints", "verify", "--job-dir", trained.directory)


@pytest.mark.parametrize(
    ("kind", "reported"), [("trained", "validation_loss"), ("ema", "ema_validation_loss")]
)
def test_the_validation_loss_is_that_of_the_held_out_pieces(
    kind: WeightsKind, reported: str, trained: Job
) -> None:
    saved = open_model(trained.checkpoint(8), kind)
    model = saved.model().eval()
    dataset = Dataset.open(trained.directory / "dataset" / saved.identity["dataset"])
    split, total, count = dataset.split("validation"), 0.0, 0
    assert len(split.offsets) > 2
    for begin, end in pairwise(split.offsets.tolist()):
        piece = torch.from_numpy(split.tokens[begin:end].astype("int64"))
        for start in range(0, len(piece) - 1, 16):
            window = piece[start : start + 17]
            with torch.no_grad():
                total += float(token_loss_sum(model(window[None, :-1]), window[None, 1:]))
            count += len(window) - 1
    progress = json.loads((trained.checkpoint(8) / "state.json").read_text())["progress"]
    assert progress[reported] == pytest.approx(total / count, rel=1e-5)


def test_an_export_needs_nothing_of_its_job(
    trained: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, moved = tmp_path / "first", tmp_path / "elsewhere" / "model"
    said = output_of(capsys, "checkpoints", "export", "--job-dir", trained.directory, "--output", first)
    assert "the ema weights of job, step 12" in said
    moved.parent.mkdir()
    shutil.move(first, moved)
    assert sorted(path.name for path in moved.iterdir()) == [
        "config.json",
        "export.json",
        "model.safetensors",
        "vocabulary.json",
    ]
    weights, average = (
        load_file(folder / name)
        for folder, name in ((moved, "model.safetensors"), (trained.checkpoint(12), "ema.safetensors"))
    )
    assert weights.keys() == average.keys()
    assert all(weights[name].equal(average[name]) for name in weights)
    draw = ("--count", "1", "--seed", "3")
    pieces = [
        json_of(capsys, "sample", "--checkpoint", folder, *draw) for folder in (moved, trained.checkpoint(12))
    ]
    assert pieces[0]["step"] == 12
    # The title of the picture and the text in the file name the job, which both know.
    assert pieces[0] == pieces[1]
    chosen = open_model(trained.checkpoint(12), "trained").weights
    assert chosen["norm.weight"].equal(load_file(trained.checkpoint(12) / "model.safetensors")["norm.weight"])
    assert "has only the ema weights" in output_of(
        capsys, "sample", "--checkpoint", moved, "--weights", "trained", code=2
    )


def test_trained_weights_can_be_exported_too(
    trained: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = trained.checkpoint(8)
    arguments = ("export", "--checkpoint", step, "--weights", "trained", "--output", tmp_path / "model")
    output_of(capsys, "checkpoints", *arguments)
    found = json_of(capsys, "checkpoints", "diff", step, tmp_path / "model", code=1)
    same_file = [entry for entry in found["tensors"] if entry["file"] == "model.safetensors"]
    assert same_file == []
    assert found["equal_tensors"] == len(load_file(step / "model.safetensors"))
    assert "already exists; choose another" in output_of(capsys, "checkpoints", *arguments, code=2)
    data = bytearray((tmp_path / "model" / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "model" / "model.safetensors").write_bytes(data)
    complaint = output_of(capsys, "sample", "--checkpoint", tmp_path / "model", code=2)
    assert "model.safetensors does not match its checksum" in complaint


def test_the_average_of_the_last_checkpoints(
    trained: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("average", "--job-dir", trained.directory, "--weights", "trained", "--output")
    said = output_of(capsys, "checkpoints", *arguments, tmp_path / "mean", "--last", 2)
    assert "the trained weights of job, step 8, 12" in said
    mean, *parts = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path / "mean", trained.checkpoint(8), trained.checkpoint(12))
    )
    for name, tensor in mean.items():
        expected = (sum(part[name].double() for part in parts) / 2).float()  # type: ignore[union-attr]
        assert tensor.equal(expected)
    assert json_of(capsys, "sample", "--checkpoint", tmp_path / "mean", "--count", 1)["step"] == 12
    complaint = output_of(capsys, "checkpoints", *arguments, tmp_path / "more", "--last", 4, code=2)
    assert "has 3 undamaged checkpoints; 4 are needed" in complaint
    assert not (tmp_path / "more").exists()


def test_diff_tells_values_and_tensors(trained: Job, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = trained.checkpoint(8), trained.checkpoint(12)
    assert json_of(capsys, "checkpoints", "diff", a, a)["equal"]
    found = json_of(capsys, "checkpoints", "diff", a, b, code=1)
    values = {(entry["file"], entry["key"]): (entry["a"], entry["b"]) for entry in found["values"]}
    assert values["state.json", "progress.step"] == (8, 12)
    assert not [key for file, key in values if file == "config.json"]
    weights = [load_file(path / "model.safetensors") for path in (a, b)]
    reported = {entry["name"]: entry for entry in found["tensors"] if entry["file"] == "model.safetensors"}
    assert reported.keys() == weights[0].keys()
    for name, entry in reported.items():
        distance = (weights[0][name] - weights[1][name]).double()
        assert entry["max"] == pytest.approx(float(distance.abs().max()), rel=1e-5)
        assert entry["rms"] == pytest.approx(float(distance.square().mean().sqrt()), rel=1e-5)
    text = output_of(capsys, "checkpoints", "diff", a, b, code=1)
    assert "state.json  progress.step: 8 → 12" in text
    assert "no safetensors" in output_of(capsys, "checkpoints", "diff", a, trained.root, code=2)


def test_diff_tells_what_only_one_side_has(
    trained: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Job(tmp_path, merge(CHANGE, {"steps": 4, "ema": {"decay": 0}, "model": {"mlpRatio": 2}}))
    assert other.run() == [0], other.text()
    found = json_of(capsys, "checkpoints", "diff", trained.checkpoint(4), other.checkpoint(4), code=1)
    reasons = {(entry["file"], entry["name"]): entry["reason"] for entry in found["tensors"]}
    assert "ema.safetensors does not exist" in reasons["ema.safetensors", "*"]
    assert reasons["model.safetensors", "blocks.0.mlp_in.weight"] == (
        "(64, 16) torch.float32 and (32, 16) torch.float32"
    )
    keys = {entry["key"] for entry in found["values"] if entry["file"] == "config.json"}
    assert keys == {"training.ema.decay", "training.model.mlpRatio", "training.steps"}


@pytest.mark.parametrize("action", ["list", "verify", "export", "average", "diff"])
def test_every_action_explains_itself(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run(["checkpoints", action, "--help"])
    assert end.value.code == 0
    assert f"usage: aurl-trainer checkpoints {action}" in capsys.readouterr().out


def test_equal_bits_are_equal_even_where_they_are_no_numbers() -> None:
    from aurl_trainer.checkpoint.compare import _differ

    broken = torch.tensor([float("nan"), 1.0])
    assert _differ("f", "t", broken, broken.clone()) is None
    difference = _differ("f", "t", broken, torch.tensor([1.0, 1.0]))
    assert difference is not None
    assert (difference.max, difference.reason) == (None, None)
