"""The job page over HTTP: the paths that are served, and the history that outlives a pod."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

from launcher.harness import (
    RunningLauncher,
    clean_environment,
    eventually,
    finished,
    history,
    processes_mentioning,
    steps,
)

Start = Callable[..., RunningLauncher]


def ask(
    launcher: RunningLauncher, method: str, path: str, **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Send a path unchanged: other clients would normalise it."""
    connection = http.client.HTTPConnection("127.0.0.1", launcher.port, timeout=30)
    try:
        connection.request(
            method, path, headers={key.replace("_", "-"): value for key, value in headers.items()}
        )
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_only_the_page_is_served_and_read_only(start: Start) -> None:
    launcher = finished(start)
    job_dir = launcher.folder / "volume/music/chorales"
    samples = job_dir / "samples/step-00000004"
    samples.mkdir(parents=True)
    (samples / "sample-0.mid").write_bytes(b"MThd")
    (samples / "sample-1.mid").symlink_to("/etc/passwd")
    (job_dir / "samples/step-00000005").symlink_to("/etc")

    for path, content_type in (
        ("/", "text/html; charset=utf-8"), ("/page.js", "text/javascript; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"), ("/icon.svg", "image/svg+xml"),
        ("/history", "application/json"), ("/artifacts", "application/json"),
        ("/samples/step-00000004/sample-0.mid?v=1", "audio/midi"),
    ):  # fmt: skip
        status, headers, body = ask(launcher, "GET", path)
        assert (status, headers["Content-Type"]) == (200, content_type), path
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert body
        assert ask(launcher, "GET", path, If_None_Match=headers["ETag"])[::2] == (304, b"")
        assert ask(launcher, "HEAD", path)[::2] == (200, b"")
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            assert ask(launcher, method, path)[0] == 405

    for path in (
        "/index.htm", "/page/page.js", "/../jobpage.py", "/page.js/../../server.py", "//etc/passwd",
        "/samples", "/samples/", "/samples/step-00000004/", "/samples/../history.json",
        "/samples/step-00000004/../../history.json", "/samples/%2e%2e/history.json", "/samples//etc/passwd",
        "/samples/step-00000004/sample-1.mid", "/samples/step-00000005/passwd", "/history.json", "/job.yaml",
    ):  # fmt: skip
        assert ask(launcher, "GET", path)[0] == 404, path


def begun(launcher: RunningLauncher) -> int | None:
    """The step at which the newest attempt began, once its rank has reported."""
    step: int | None = history(launcher)["attempts"][-1]["start_step"]
    return step


def test_the_history_outlives_a_pod_that_vanishes(start: Start) -> None:
    slowly = {"SCRIPT_SLOWLY": "1", "SCRIPT_END": "wait"}
    first = start("train", "train.py", script_env=slowly)
    stored = first.folder / "volume/music/chorales/history.json"
    eventually(
        "the checkpoint's history",
        lambda: stored.exists() and steps(json.loads(stored.read_text()))[-1:] == [4],
    )
    assert steps(history(first)) == [1, 2, 3, 4]
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    for pid in processes_mentioning(str(first.run_dir)):  # as the kernel does when PID 1 of a container dies
        os.kill(pid, signal.SIGKILL)

    second = start(
        "train",
        "train.py",
        script_env={"SCRIPT_START": "2", **slowly},
        attempt=3,
        volume=first.folder / "volume",
    )
    eventually("the server", second.is_serving)
    eventually("the new attempt", lambda: history(second)["attempts"] and begun(second) == 2)
    eventually("the new points", lambda: steps(history(second)) == [1, 2, 3, 4])
    document = history(second)
    times = [row[1] for row in document["train"]["rows"]]
    assert times == sorted(times)
    kept = ("number", "start_step", "state")
    lives = [tuple(attempt[key] for key in kept) for attempt in document["attempts"]]
    assert lives == [(2, 0, None), (3, 2, None)]
    eventually("both damaged checkpoints", lambda: len(history(second)["events"]) == 2)
    second.terminate()
    assert second.wait() == 143
    lives = json.loads(stored.read_text())["attempts"]
    assert [attempt["state"] for attempt in lives] == [None, "Interrupted"]


def test_the_page_of_a_finished_job_comes_from_its_directory(start: Start) -> None:
    launcher = finished(start)
    final = launcher.progress()
    launcher.terminate()
    assert launcher.wait() == 0
    job_dir = launcher.folder / "volume/music/chorales"
    command = [sys.executable, "-m", "aurl_trainer", "page", "--http-port", "0", "--job-dir"]
    server = subprocess.Popen(
        [*command, str(job_dir)], env=clean_environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        (url,) = re.findall(r"at (http://\S+)/ until", server.stdout.readline())
        for path in ("/", "/page.js", "/artifacts"):
            with urllib.request.urlopen(url + path, timeout=10) as answer:
                assert answer.status == 200
        with urllib.request.urlopen(f"{url}/history", timeout=10) as answer:
            kept = json.load(answer)
        with urllib.request.urlopen(f"{url}/progress", timeout=10) as answer:
            last = json.load(answer)
    finally:
        server.terminate()
        assert server.wait(60) == 0
    assert (steps(kept)[-1], kept["attempts"][-1]["state"]) == (4, "Succeeded")
    ages = {"heartbeatAgeSeconds": None}  # the one value that changes by itself
    assert last | ages == final | ages

    nowhere = subprocess.run(
        [*command, str(launcher.folder)], env=clean_environment(), capture_output=True, text=True
    )
    assert nowhere.returncode == 2
    assert "has no history.json; pass the directory" in nowhere.stderr


def test_the_page_answers_before_a_dead_rank_is_noticed(start: Start) -> None:
    launcher = start("train", "train.py", script_env={"SCRIPT_END": "deadlock", "SCRIPT_SLOWLY": "1"})
    launcher.wait_for_progress("training", lambda progress: progress["lastCheckpoint"] is not None)
    assert steps(history(launcher)) == [1, 2, 3, 4]  # while the rank waits for ever
    (agent,) = [
        pid
        for pid in processes_mentioning(str(launcher.run_dir / "agent.json"))
        if b"aurl_trainer.launcher.agent" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    (rank,) = [json.loads(path.read_text())["pid"] for path in launcher.run_dir.glob("rank-*.json")]
    os.kill(agent, signal.SIGSTOP)
    os.kill(rank, signal.SIGKILL)
    for path in ("/", "/progress", "/history", "/artifacts", "/metrics"):
        assert ask(launcher, "GET", path)[0] == 200
    os.kill(agent, signal.SIGCONT)
    assert launcher.wait() == 137


def test_other_nodes_keep_no_history(start: Start) -> None:
    launcher = start(
        "train", "train.py", num_nodes=2, node_rank=1, rdzv_endpoint="127.0.0.1:1", pod_ip="127.0.0.1"
    )
    eventually("the server", launcher.is_serving)
    assert (history(launcher)["attempts"], steps(history(launcher))) == ([], [])
