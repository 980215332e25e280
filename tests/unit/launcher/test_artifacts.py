"""Artifacts on the volume: checkpoints and music are listed, and nothing else can be read."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from aurl_trainer.launcher import artifacts
from aurl_trainer.launcher.artifacts import Artifacts, checkpoints_in, newest_samples, read_sample


def checkpoint(job_dir: Path, step: int, *, healthy: bool = True, **progress: Any) -> Path:
    folder = job_dir / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    (folder / "state.json").write_text(
        json.dumps({"progress": {"step": step, "healthy": healthy, **progress}})
    )
    files = {path.name: {"bytes": path.stat().st_size} for path in folder.iterdir()}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))
    (folder / "COMMITTED").write_text("sha256")
    return folder


def sample(job_dir: Path, step: int, name: str, content: bytes = b"music") -> Path:
    file = job_dir / "samples" / f"step-{step:08d}" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def test_checkpoints_are_listed_with_their_health(tmp_path: Path) -> None:
    checkpoint(tmp_path, 10, validation_step=10, validation_loss=1.5)
    checkpoint(tmp_path, 20, healthy=False)
    (checkpoint(tmp_path, 30) / "model.safetensors").write_bytes(b"short")
    (checkpoint(tmp_path, 40) / "state.json").write_text("[")
    (checkpoint(tmp_path, 50) / "COMMITTED").unlink()
    (tmp_path / "checkpoints/.tmp-step-00000060-1").mkdir()
    found = checkpoints_in(tmp_path)
    assert [(entry["step"], entry["health"]) for entry in found] == [
        (40, "damaged"),
        (30, "damaged"),
        (20, "doubtful"),
        (10, "healthy"),
    ]
    assert found[-1]["validationLoss"] == 1.5
    assert found[-1]["bytes"] > 100


def test_a_job_without_anything_has_no_artifacts(tmp_path: Path) -> None:
    assert Artifacts(tmp_path / "gone").contents()["checkpoints"] == []
    assert newest_samples(tmp_path) is None


def test_the_newest_music_is_found_in_order(tmp_path: Path) -> None:
    sample(tmp_path, 9, "sample-0.mid")
    for name in ("sample-10.mid", "sample-2.mid", "sample-2.png", "secrets.txt", ".sample-3.mid.tmp"):
        sample(tmp_path, 10, name)
    (tmp_path / "samples/step-00000011").mkdir()
    found = newest_samples(tmp_path)
    assert found is not None
    assert (found["step"], found["files"]) == (10, ["sample-2.mid", "sample-2.png", "sample-10.mid"])


def test_a_sample_is_read(tmp_path: Path) -> None:
    sample(tmp_path, 10, "sample-0.mid", b"MThd")
    assert read_sample(tmp_path, "step-00000010/sample-0.mid") == ("audio/midi", b"MThd")
    assert read_sample(tmp_path, "step-00000010/sample-1.mid") is None


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../history.json", "../../history.json", "step-00000010/../../history.json",
        "step-00000010/../step-00000010/sample-0.mid", "step-00000010//sample-0.mid", "/etc/passwd",
        "step-00000010/sample-0.mid\n", "step-00000010/sample-0.mid\0.png", "step-00000010/sample-٣.mid",
        "%2e%2e/history.json", "step-00000010/.sample-0.mid.tmp", "step-00000010/notes.json",
    ],
)  # fmt: skip
def test_no_other_name_is_read(tmp_path: Path, name: str) -> None:
    job_dir = tmp_path / "job"
    for file in ("sample-0.mid", "sample-3.mid", ".sample-0.mid.tmp", "notes.json"):
        sample(job_dir, 10, file)
    (job_dir / "history.json").write_text("{}")
    assert read_sample(job_dir, name) is None


def test_links_pipes_and_giants_are_not_read(tmp_path: Path) -> None:
    job_dir = tmp_path / "job"
    folder = sample(job_dir, 10, "sample-0.mid").parent
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "sample-0.mid").write_text("of another job")
    (folder / "sample-1.mid").symlink_to(secret / "sample-0.mid")
    (job_dir / "samples/step-00000011").symlink_to(secret)
    os.mkfifo(folder / "sample-2.mid")
    (folder / "sample-3.mid").mkdir()
    with (folder / "sample-4.mid").open("wb") as giant:
        giant.truncate(artifacts.MAX_BYTES + 1)
    for name in ("10/sample-1", "11/sample-0", "10/sample-2", "10/sample-3", "10/sample-4"):
        assert read_sample(job_dir, f"step-000000{name}.mid") is None, name
    (tmp_path / "other").mkdir()
    (tmp_path / "other/samples").symlink_to(job_dir / "samples")
    assert read_sample(tmp_path / "other", "step-00000010/sample-0.mid") is None
    assert read_sample(tmp_path / "gone", "step-00000010/sample-0.mid") is None


def test_a_volume_that_hangs_blocks_one_listing_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint(tmp_path, 10)
    monkeypatch.setattr(artifacts, "FRESH_SECONDS", 0.0)
    seen = Artifacts(tmp_path)
    known = seen.contents()
    assert [entry["step"] for entry in known["checkpoints"]] == [10]
    gone, looks = threading.Event(), []

    def hang(job_dir: Path) -> list[dict[str, Any]]:
        looks.append(job_dir)
        gone.wait()
        return []

    monkeypatch.setattr(artifacts, "checkpoints_in", hang)
    monkeypatch.setattr(artifacts, "WAIT_SECONDS", 0.01)
    assert [seen.contents() for _ in range(5)] == [known] * 5
    assert len(looks) == 1
    gone.set()
    deadline = time.monotonic() + 60
    while seen.contents() == known:
        assert time.monotonic() < deadline
