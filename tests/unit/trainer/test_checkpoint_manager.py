"""Commit, verification, fallback and retention, in a real directory."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from aurl_trainer.checkpoint.manager import Checkpoint, CheckpointManager, Contents
from aurl_trainer.checkpoint.state import TrainingIdentity
from aurl_trainer.checkpoint.writer import SMALL, CheckpointWriter
from aurl_trainer.errors import CheckpointMismatchError, DamagedCheckpointError


def contents(value: float = 1.0) -> Contents:
    return Contents(
        model={"weight": torch.full((3, 2), value), "half": torch.ones(5, dtype=torch.bfloat16)},
        optimizer={"step/weight": torch.tensor(7.0), "counters": torch.arange(3), "empty": torch.empty(0)},
        state={"progress": {"step": 1}},
        config={"training": {}},
        ranks=['{"torch": "a"}', '{"torch": "b"}'],
    )


def evaluated(step: int, loss: float | None, ema: float | None = None, *, at: int | None = None) -> Contents:
    progress = {
        "step": step,
        "validation_loss": loss,
        "ema_validation_loss": ema,
        "validation_step": step if at is None else at,
    }
    return replace(contents(), state={"progress": progress})


def damage(path: Path, kind: str) -> None:
    data = bytearray(path.read_bytes())
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(data[:-1])
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


def steps(manager: CheckpointManager) -> list[int]:
    return [checkpoint.step for checkpoint in manager.all()]


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    saved = manager.save(12, contents(3.0))
    manager.verify(saved)
    latest, complaints = manager.latest()
    assert latest == saved == Checkpoint(12, tmp_path / "step-00000012")
    assert complaints == []
    assert saved.read_tensors("model.safetensors")["weight"].equal(torch.full((3, 2), 3.0))
    optimizer = saved.read_tensors("optimizer.safetensors")
    assert {name: tensor.tolist() for name, tensor in optimizer.items()} == {
        "step/weight": 7.0,
        "counters": [0, 1, 2],
        "empty": [],
    }
    assert saved.read_json("rank-1.json") == {"torch": "b"}


def test_the_safetensors_library_accepts_the_file_as_aligned(tmp_path: Path) -> None:
    saved = CheckpointManager(tmp_path).save(1, contents())
    with safe_open(saved.path / "model.safetensors", "np") as file:
        assert file.metadata() == {"step": "1"}
        assert file.get_tensor("weight").dtype == "float32"
    header = int.from_bytes((saved.path / "model.safetensors").read_bytes()[:8], "little")
    assert header % 8 == 0


@pytest.mark.parametrize("kind", ["flipped", "truncated", "missing"])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "state.json", "rank-0.json", "manifest.json"]
)
def test_any_damage_falls_back_to_the_older_one(name: str, kind: str, tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save(1, contents())
    damage(manager.save(2, contents()).path / name, kind)
    with pytest.raises(DamagedCheckpointError, match="step-00000002"):
        manager.verify(manager.at(2))
    latest, complaints = manager.latest()
    assert latest == manager.at(1)
    assert len(complaints) == 1
    assert name in complaints[0]


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save(1, contents())
    monkeypatch.setattr("aurl_trainer.checkpoint.manager.FORMAT", 2)
    with pytest.raises(
        CheckpointMismatchError, match="step-00000001 has format 1 and this trainer reads format 2"
    ):
        manager.latest()


def test_without_its_marker_a_checkpoint_does_not_exist(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    (manager.save(1, contents()).path / "COMMITTED").unlink()
    (tmp_path / ".tmp-step-00000002-1").mkdir()
    assert manager.latest() == (None, [])
    manager.clean()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
@pytest.mark.parametrize("removable", [True, False])
def test_a_marker_that_cannot_be_written_commits_nothing_and_costs_no_good_checkpoint(
    call: str, removable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls of a save that concern the marker fail, and then perhaps the clean-up, too."""
    manager = CheckpointManager(tmp_path, keep_last=2)
    for step in (1, 2):
        manager.save(step, contents())

    def failing(original: Any) -> Any:
        def replacement(where: Any, *arguments: Any) -> Any:
            path = str(Path(f"/proc/self/fd/{where}").readlink()) if isinstance(where, int) else str(where)
            if "COMMITTED" in path and "step-00000003" in path:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(where, *arguments)

        return replacement

    with monkeypatch.context() as faults:
        faults.setattr(os, call, failing(getattr(os, call)))
        if not removable:
            faults.setattr(manager, "_remove", failing_removal)
        with pytest.raises(OSError, match="No space left"):
            manager.save(3, contents())
    for checkpoint in manager.all():
        manager.verify(checkpoint)
    assert steps(manager) == [1, 2]
    manager.save(4, contents())
    assert steps(manager) == [2, 4]


def failing_removal(checkpoint: Checkpoint) -> None:
    if checkpoint.path.exists():
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize(
    ("keep_last", "every", "kept"),
    [(1, 0, [6]), (2, 0, [5, 6]), (2, 2, [2, 4, 5, 6]), (9, 0, [1, 2, 3, 4, 5, 6])],
)
def test_retention(keep_last: int, every: int, kept: list[int], tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last=keep_last, keep_every_steps=every)
    for step in range(1, 7):
        manager.save(step, contents())
    assert steps(manager) == kept


def test_the_best_by_validation_loss_stays(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last=1, keep_best=2)
    # Step 4 carries the loss of step 3, step 5 diverged, step 6 counts by its average.
    losses = [(1, 5.0, None), (2, 3.0, None), (3, 4.0, None), (5, float("nan"), None), (6, 9.0, 2.0)]
    for step, loss, ema in losses:
        manager.save(step, evaluated(step, loss, ema))
        if step == 3:
            manager.save(4, evaluated(4, 1.0, at=3))
    manager.save(7, evaluated(7, 8.0))
    assert steps(manager) == [2, 6, 7]
    later = CheckpointManager(tmp_path, keep_last=1, keep_best=1)
    later.save(8, evaluated(8, 7.0))
    assert steps(later) == [6, 8]
    assert [checkpoint.step for checkpoint in later.best(later.all())] == [6, 8]


def healthy(value: bool, last_healthy_step: int, best_step: int = 0) -> Contents:
    progress = {"healthy": value, "last_healthy_step": last_healthy_step, "best_step": best_step}
    return replace(contents(), state={"progress": progress})


def test_the_last_healthy_one_stays_however_many_bad_ones_follow(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last=1)
    manager.save(10, healthy(True, last_healthy_step=10))
    manager.save(20, healthy(True, last_healthy_step=20))
    manager.save(30, healthy(True, last_healthy_step=25))  # steps after 25 turned out bad
    for step in (40, 50, 60):
        manager.save(step, healthy(False, last_healthy_step=25))
    assert steps(manager) == [20, 60]
    again = CheckpointManager(tmp_path, keep_last=1)  # a restarted job reads it from the files
    again.save(70, healthy(False, last_healthy_step=25))
    assert steps(again) == [20, 70]
    assert again.latest() == (again.at(70), [])
    assert again.latest(healthy_until=69) == (again.at(20), [])
    assert again.latest(healthy_until=19) == (None, [])
    again.save(80, healthy(True, last_healthy_step=80))
    assert steps(again) == [80]


def test_the_best_one_of_early_stopping_stays(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last=1)
    for step in range(1, 6):
        manager.save(step, healthy(True, last_healthy_step=step, best_step=2))
    assert steps(manager) == [2, 5]


def test_a_damaged_healthy_one_is_named_and_an_older_one_taken(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    for step in (1, 2, 3):
        manager.save(step, healthy(step < 3, last_healthy_step=2))
    damage(manager.at(2).path / "model.safetensors", "flipped")
    found, complaints = manager.latest(healthy_until=2)
    assert found == manager.at(1)
    assert len(complaints) == 1
    manager.delete_after(1)
    assert steps(manager) == [1]


def test_damaged_checkpoints_do_not_push_out_healthy_ones(tmp_path: Path) -> None:
    first = CheckpointManager(tmp_path, keep_last=2)
    for step in (10, 20):
        first.save(step, contents())
    damage(first.at(20).path / "model.safetensors", "flipped")
    second = CheckpointManager(tmp_path, keep_last=2)
    assert second.latest()[0] == second.at(10)
    second.save(15, contents())
    assert steps(second) == [10, 15, 20]
    second.save(20, contents())  # training has passed the damaged one
    second.verify(second.at(20))
    assert steps(second) == [15, 20]


def test_a_full_disk_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = CheckpointManager(tmp_path, keep_last=1)
    manager.save(1, contents())

    def full(descriptor: int, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            manager.save(2, contents())
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    manager.verify(manager.at(1))


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("elements", [1000, SMALL])
def test_writer_saves_what_the_tensors_were_at_the_call(
    asynchronous: bool, elements: int, tmp_path: Path
) -> None:
    manager = CheckpointManager(tmp_path)
    writer = CheckpointWriter(manager, asynchronous=asynchronous)
    weight = torch.zeros(elements)
    results = []
    for step in (1, 2):
        weight.fill_(step)
        what = contents()
        results += writer.save(step, Contents({"w": weight}, {}, what.state, what.config, what.ranks))
        writer.settle()
        weight.fill_(-1)
    results += writer.close()
    assert [(result.step, result.error) for result in results] == [(1, None), (2, None)]
    for step in (1, 2):
        saved = manager.at(step).read_tensors("model.safetensors")
        assert saved["w"].eq(step).all()


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_failed_save_is_tried_again_as_it_was(
    asynchronous: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = CheckpointManager(tmp_path, keep_last=1)
    manager.save(1, contents())
    fail_writes(monkeypatch, 2)
    writer = CheckpointWriter(manager, asynchronous=asynchronous, retries=2)
    big, small = torch.full((1 << 20,), 7.0), torch.full((3,), 7.0)
    results = writer.save(2, replace(contents(), model={"big": big}, ema={"small": small}))
    writer.settle()
    for tensor in (big, small):
        tensor.fill_(-1)  # training goes on
    deadline = time.monotonic() + 60
    while len(results) < 3 and time.monotonic() < deadline:
        results += writer.poll()
    assert [(result.step, result.error is None) for result in results] == [(2, False), (2, False), (2, True)]
    saved = manager.at(2)
    assert steps(manager) == [2]
    assert saved.read_tensors("model.safetensors")["big"].eq(7).all()
    assert saved.read_tensors("ema.safetensors")["small"].eq(7).all()
    assert writer.close() == []


@pytest.mark.parametrize("retries", [0, 3])
def test_tries_are_bounded_and_the_end_waits_for_them(
    retries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = CheckpointManager(tmp_path)
    fail_writes(monkeypatch, 1000)
    writer = CheckpointWriter(manager, asynchronous=True, retries=retries)
    results = writer.save(1, contents()) + writer.close()
    assert len(results) == 1 + retries
    assert writer.last is results[-1]
    assert all(result.error is not None for result in results)


def test_in_a_hurry_no_try_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_writes(monkeypatch, 2)
    writer = CheckpointWriter(CheckpointManager(tmp_path), asynchronous=True, retries=2, retry_seconds=3600)
    results = writer.save(1, contents()) + writer.close(hurry=True)
    assert [result.error is None for result in results] == [False, False, True]


def test_a_newer_save_replaces_one_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = CheckpointManager(tmp_path)
    fail_writes(monkeypatch, 1)
    writer = CheckpointWriter(manager, asynchronous=True, retries=5, retry_seconds=3600)
    results = writer.save(1, contents()) + writer.wait() + writer.save(2, contents(2.0)) + writer.close()
    assert [(result.step, result.error is None) for result in results] == [(1, False), (2, True)]
    assert steps(manager) == [2]


def fail_writes(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Fail the next `count` writes to a file as on a full disk."""
    original, left = os.write, [count]

    def write(descriptor: int, data: Any) -> int:
        if left[0] > 0:
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(descriptor, data)

    monkeypatch.setattr(os, "write", write)


def test_another_identity_is_refused_with_what_differs() -> None:
    mine = TrainingIdentity("transformer", {"layers": 2, "heads": 4}, 100, "vocabulary-a", "data-a")
    mine.refuse_other(mine.to_json(), "step-1")
    other = TrainingIdentity("transformer", {"layers": 3, "heads": 4}, 90, "vocabulary-b", "data-a")
    with pytest.raises(CheckpointMismatchError) as error:
        mine.refuse_other(other.to_json(), "step-1")
    text = str(error.value)
    assert "model.layers is 3 there and 2 in this job" in text
    assert "vocabulary_size is 90 there and 100" in text
    assert "heads" not in text
    assert "dataset" not in text
