"""Exported models: what is refused, and that nothing half-written remains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from aurl_trainer.checkpoint.manager import Checkpoint, CheckpointManager, Contents
from aurl_trainer.cli.main import run
from aurl_trainer.data.config import TokenizerConfig
from aurl_trainer.data.vocabulary import Vocabulary
from aurl_trainer.errors import UserError
from aurl_trainer.export.averaging import average
from aurl_trainer.export.saved_model import from_checkpoint, open_model

VOCABULARY = Vocabulary(TokenizerConfig(velocity_bins=0, tempo_bins=0))


def save(job: Path, step: int, value: float, **identity: Any) -> Checkpoint:
    """Save a checkpoint of one weight, and its vocabulary."""
    known = {"dataset": "data", "vocabulary": VOCABULARY.fingerprint, "model": {"layers": 1}} | identity
    folder = job / "dataset" / str(known["dataset"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocabulary.json").write_text(VOCABULARY.to_json())
    contents = Contents(
        model={"weight": torch.full((3,), value), "half": torch.full((2,), value, dtype=torch.bfloat16)},
        optimizer={},
        state={"progress": {"step": step}, "identity": known},
        config={"training": {}},
        ranks=["{}"],
    )
    return CheckpointManager(job / "checkpoints", keep_last=10).save(step, contents)


def test_the_mean_keeps_number_formats(tmp_path: Path) -> None:
    saved = [save(tmp_path, step, value) for step, value in ((1, 1.0), (2, 2.0), (3, 6.0))]
    model = average(saved)
    assert (model.steps, model.step, model.kind) == ([1, 2, 3], 3, "trained")
    assert model.weights["weight"].tolist() == [3.0] * 3
    assert model.weights["half"].dtype == torch.bfloat16
    model.write(tmp_path / "mean")
    again = open_model(tmp_path / "mean")
    assert again.steps == [1, 2, 3]
    assert all(again.weights[name].equal(model.weights[name]) for name in model.weights)
    assert again.vocabulary.fingerprint == VOCABULARY.fingerprint


def test_an_export_of_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from_checkpoint(save(tmp_path, 1, 1.0)).write(tmp_path / "out")
    monkeypatch.setattr("aurl_trainer.export.saved_model.FORMAT", 2)
    with pytest.raises(
        UserError, match="has format 1 and this trainer reads format 2; export the checkpoint"
    ):
        open_model(tmp_path / "out")


def test_only_checkpoints_of_one_training_are_averaged(tmp_path: Path) -> None:
    saved = [save(tmp_path, 1, 1.0, model={"layers": 2}), save(tmp_path, 2, 1.0)]
    with pytest.raises(UserError, match="step-00000001 is of another model, vocabulary or dataset"):
        average(saved)


def test_damaged_checkpoints_are_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, float(step))
    (tmp_path / "checkpoints" / "step-00000003" / "state.json").write_text("{}")
    command = ["checkpoints", "average", "--job-dir", str(tmp_path), "--last", "2", "--output"]
    assert run([*command, str(tmp_path / "mean")]) == 0
    printed = capsys.readouterr()
    assert "skipping a damaged checkpoint: step-00000003/state.json" in printed.err
    assert open_model(tmp_path / "mean").weights["weight"].tolist() == [1.5] * 3


def test_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, 1, 1.0)
    with pytest.raises(UserError, match="has no averaged weights, because it was trained without"):
        from_checkpoint(checkpoint, "ema")
    with pytest.raises(UserError, match="neither a complete checkpoint nor an export"):
        open_model(tmp_path)


def test_a_vocabulary_of_another_dataset_is_refused(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, 1, 1.0, vocabulary="of something else")
    with pytest.raises(UserError, match="has a different vocabulary than it was trained with"):
        from_checkpoint(checkpoint)


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    model = from_checkpoint(save(tmp_path, 1, 1.0))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"The export .* cannot be written: Not a directory"):
        model.write(tmp_path / "file" / "model")
    (tmp_path / "here").mkdir()
    with pytest.raises(UserError, match="already exists; choose another --output"):
        model.write(tmp_path / "here")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "dataset", "file", "here"]
