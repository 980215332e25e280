"""`aurl-trainer train` and `prepare` as commands: no cluster, real torchrun."""

from __future__ import annotations

import fcntl
import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mido
import pytest
import yaml

from launcher.harness import DEADLINE, clean_environment, eventually, processes_mentioning
from launcher.music import JOB, write_scales

STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture
def workplace(tmp_path: Path) -> Iterator[Path]:
    """A directory with a few scales as MIDI files, a broken one, and a job file."""
    write_scales(tmp_path / "midi")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    yield tmp_path
    for process in STARTED:  # a test that failed may have left one; SIGTERM ends its ranks too
        process.terminate()
        process.wait(DEADLINE)
    STARTED.clear()


def command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "aurl_trainer", *arguments],
            cwd=folder, env=clean_environment(), stdout=output, stderr=output, text=True,
        )  # fmt: skip
    STARTED.append(process)
    return process


def test_an_interrupted_training_saves_and_the_same_command_continues(workplace: Path) -> None:
    output = workplace / "output"
    job = workplace / "build/train/scales"
    interrupted = command(workplace, "train", "--job", "job.yaml")
    log = job / "logs/train.log"
    eventually(
        "a few steps",
        lambda: (log.exists() and "step=3 " in log.read_text()) or interrupted.poll() is not None,
    )
    (url,) = re.findall("job page: (http://[^ ]+/) ", output.read_text())  # of both roles
    with urllib.request.urlopen(url, timeout=10) as page:
        assert b"<title>Aurl job</title>" in page.read()
    interrupted.send_signal(signal.SIGINT)
    assert interrupted.wait(DEADLINE) == 143, output.read_text()
    assert "run the same command again to resume from the last checkpoint" in output.read_text()
    assert "FilesDropped: 1 of 9 files could not be used: broken.mid" in output.read_text()
    (saved,) = (job / "checkpoints").glob("step-*")
    step = int(saved.name.removeprefix("step-"))
    assert step >= 3
    assert not processes_mentioning(str(workplace / "job.yaml"))

    resumed = command(workplace, "train", "--job", "job.yaml", "--set", f"training.steps={step + 3}")
    assert resumed.wait(DEADLINE) == 0, output.read_text()
    begun = [line for line in log.read_text().splitlines() if "training started" in line]
    assert [f"step={start} " in line for start, line in zip((0, step), begun, strict=True)] == [True, True]
    sample = job / f"samples/step-{step + 3:08d}/sample-0.mid"
    assert str(sample.relative_to(workplace)) in output.read_text()
    assert "aurl-trainer page --job-dir build/train/scales" in output.read_text()
    assert mido.MidiFile(sample).type in (0, 1)
    assert sample.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

    listing = command(workplace, "checkpoints", "verify", "--job-dir", str(job), "--json")
    assert listing.wait(DEADLINE) == 0
    checkpoints = json.loads(output.read_text())["checkpoints"]
    assert [entry["step"] for entry in checkpoints] == [step, step + 3]
    assert all(len(entry["sha256"]) == 64 for entry in checkpoints)


def test_a_dataset_without_music_is_one_sentence(workplace: Path) -> None:
    process = command(
        workplace, "prepare", "--job", "job.yaml", "--set", "dataset.source.directory.path=gone"
    )
    assert process.wait(DEADLINE) == 2
    last = (workplace / "output").read_text().splitlines()[-1]
    assert last.startswith("aurl-trainer: UserError: ") and "gone" in last
    assert "Traceback" not in (workplace / "output").read_text()


def test_two_runs_do_not_share_a_directory(workplace: Path) -> None:
    (workplace / "here").mkdir()
    with (workplace / "here/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = command(workplace, "train", "--job", "job.yaml", "--output", "here")
        assert process.wait(DEADLINE) == 2
    assert f"Another run is using {workplace / 'here'}" in (workplace / "output").read_text()
