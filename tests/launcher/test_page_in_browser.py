"""The job page in a real browser: a training, a preparation, and the end of the pod."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from aurl_dev.chromium import Browser, browser
from launcher.harness import RunningLauncher, eventually, finished, history, steps
from launcher.music import JOB, write_scales

Start = Callable[..., RunningLauncher]


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as started:
        yield started


def test_hostile_words_stay_words(start: Start, window: Browser) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\">"
    launcher = finished(start, job_name=evil, script_env={"SCRIPT_EVENT": evil})
    window.open(f"http://127.0.0.1:{launcher.port}/")
    eventually("the event", lambda: evil in window.text("#events li"))
    assert window.text("#job") == evil
    assert window.texts("img[onerror], img[src=x]") == []
    assert window.run("return document.title") == f"{evil} · Finished"
    assert window.console() == []


def test_a_real_training(start: Start, window: Browser, tmp_path: Path) -> None:
    """Prepare and train as two pods would, with the page open all the time."""
    write_scales(tmp_path / "volume/midi")
    job: dict[str, Any] = deepcopy(JOB)
    job["spec"]["training"] |= {
        "steps": 30,
        "checkpoint": {"everySteps": 10},
        "evaluation": {"everySteps": 10, "batches": 1},
        # The loss never falls so far: an event that is certain.
        "stability": {"underfitting": {"after": 0.25, "minFall": 0.99}},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    place = {"config": tmp_path / "job.yaml", "volume": tmp_path / "volume", "job_name": "scales"}
    assert start("prepare", **place).wait() == 0
    launcher = start("train", linger_seconds=3600, **place)
    eventually("the server", launcher.is_serving)
    url = f"http://127.0.0.1:{launcher.port}"
    window.open(url)  # before the first step: the page has to refresh itself
    end = "#attempts tbody td:nth-child(5)"
    eventually("the end", lambda: window.text(end) == "Succeeded" or launcher.process.poll() is not None)
    assert launcher.process.poll() is None, launcher.log.read_text()

    assert window.text("#state") == "Finished"
    assert window.text("#done") == "Step 30 of 30 · 100 %"
    assert window.run("return document.getElementById('bar').value") == 1
    document = history(launcher)
    assert steps(document)[-1] == steps(document, "validation")[-1] == 30
    points = window.run(
        "return [...document.querySelectorAll('.curve path')]"
        ".map((path) => [path.closest('section').id, +path.dataset.points])"
    )
    train, validation = len(steps(document)), len(steps(document, "validation"))
    assert points == [
        ["loss", train], ["loss", validation], ["tokensPerSecond", train], ["learningRate", train],
        ["gradientNorm", train],
    ]  # fmt: skip
    assert "Underfitting" in window.text("#events")
    eventually("the last checkpoint", lambda: window.text("#checkpoints tbody td") == "30")
    assert window.texts("#checkpoints tbody td:first-child") == ["30", "20", "10"]
    assert window.texts("#checkpoints tbody td:last-child") == ["healthy"] * 3
    picture = "const roll = document.getElementById('roll'); return roll.complete && roll.naturalWidth"
    assert eventually("the piano roll", lambda: window.run(picture)) > 300
    link = window.run("return document.querySelector('#files a[href*=mid]').href")
    assert launcher.get(link.removeprefix(url)).startswith(b"MThd")
    assert window.console() == []

    logged = [json.loads(line) for line in launcher.log.read_text().splitlines()]
    assert [line["step"] for line in logged if line["message"] == "step" and line["rank"] == 0][-1] == 30
    assert {(line["namespace"], line["job"], line["attempt"]) for line in logged} == {("music", "scales", 2)}

    for width in (400, 1280):
        window.resize(width, 900)
        assert window.run("return document.documentElement.scrollWidth") == width
    launcher.terminate()
    assert launcher.wait() == 0
    eventually("the farewell", lambda: "No response from the launcher since" in window.text("#alarm"))
    assert len(window.texts(".curve path")) == 5  # the last values stay
    window.console()  # Chromium reports the failed requests there


def test_a_preparation(start: Start, window: Browser, tmp_path: Path) -> None:
    """It waits for its configuration on a pipe; until then the test writes its snapshot."""
    write_scales(tmp_path / "volume/midi")
    config = tmp_path / "job.yaml"
    os.mkfifo(config)
    launcher = start("prepare", config=config, volume=tmp_path / "volume")
    snapshot = launcher.run_dir / "prepare.json"
    eventually("the preparation", snapshot.exists)
    dropped = {"time": 1.0, "kind": "FilesDropped", "step": None, "message": "1 of 9 files is no music"}
    changes = {"files_done": 3, "files_total": 9, "files_dropped": 1, "events": [dropped]}
    snapshot.write_text(json.dumps(json.loads(snapshot.read_text()) | changes))
    window.open(f"http://127.0.0.1:{launcher.port}/")
    eventually("a third", lambda: window.text("#done") == "File 3 of 9")
    assert window.run("return document.getElementById('bar').value") == pytest.approx(1 / 3)
    assert "1 of 9 files is no music" in window.text("#events")
    assert window.run("return document.getElementById('loss').hidden") is True
    assert window.console() == []
    config.write_text(yaml.safe_dump(JOB))
    assert launcher.wait() == 0, launcher.log.read_text()
