"""Starts real launchers as processes, and queries them like the operator and Prometheus."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aurl_dev.ports import free_port
from aurl_dev.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
RANKS = Path(__file__).parent / "ranks"

DEADLINE = 240.0
"""Seconds after which a wait fails; generous, because nothing here may depend on the machine's speed."""


def clean_environment() -> dict[str, str]:
    """Return the environment for a child: this process's without variables of the launcher or torchrun."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("AURL_", "TORCHELASTIC", "RANK"))
    }
    return {**kept, "PYTHONPATH": f"{ROOT / 'trainer'}{os.pathsep}{ROOT / 'tests'}", "PYTHONUNBUFFERED": "1"}


def eventually(what: str, probe: Callable[[], Any], seconds: float = DEADLINE) -> Any:
    """Return the first true answer of `probe`; fails after `seconds`."""
    return wait_for(what, probe, seconds)


class RunningLauncher:
    """One `aurl-trainer launch` with its own run directory, volume and termination log."""

    def __init__(
        self,
        folder: Path,
        role: str = "train",
        script: str | None = None,
        *,
        script_env: dict[str, str] | None = None,
        **variables: Any,
    ) -> None:
        self.folder = folder
        self.run_dir = folder / "run"
        self.termination_log = folder / "termination-log"
        self.log = folder / "launcher.log"
        folder.mkdir(parents=True, exist_ok=True)
        self.termination_log.touch()
        self.port = free_port()
        contract = {
            "JOB_NAME": "chorales", "JOB_NAMESPACE": "music", "JOB_UID": "uid-1", "ATTEMPT": "2",
            "NODE_RANK": "0", "CONFIG": str(folder / "job.yaml"), "VOLUME": str(folder / "volume"),
            "RUN_DIR": str(self.run_dir), "TERMINATION_LOG": str(self.termination_log),
            "HTTP_PORT": str(self.port), "GRACE_SECONDS": "20", "LINGER_SECONDS": "0",
        }  # fmt: skip
        contract |= {key.upper(): str(value) for key, value in variables.items()}
        environment = clean_environment() | {f"AURL_{key}": value for key, value in contract.items()}
        command = [sys.executable, "-m", "aurl_trainer", "launch", role]
        if script is not None:
            command += ["--rank-script", str(RANKS / script)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=environment | (script_env or {}), stdout=log, stderr=log, cwd=folder
            )

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return bytes(answer.read())

    def progress(self) -> dict[str, Any]:
        return dict(json.loads(self.get("/progress")))

    def is_serving(self) -> bool:
        try:
            return self.get("/healthz") == b"ok\n"
        except OSError:
            return False

    def wait_for_progress(self, what: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        def probe() -> dict[str, Any] | None:
            if self.process.poll() is not None:
                raise AssertionError(
                    f"the launcher ended with {self.process.returncode}:\n{self.log.read_text()}"
                )
            try:
                progress = self.progress()
            except OSError:
                return None
            return progress if condition(progress) else None

        return dict(eventually(what, probe))

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = DEADLINE) -> int:
        """Return the exit code; fails with the log if the launcher does not exit."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"the launcher did not end within {seconds} s:\n{self.log.read_text()}"
            ) from None

    def message(self) -> dict[str, Any]:
        """Return the termination message."""
        text = self.termination_log.read_bytes()
        assert len(text) <= 4096
        return dict(json.loads(text))

    def stop(self) -> None:
        """Kill its remaining processes."""
        if self.process.poll() is None:
            self.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def processes_mentioning(text: str) -> list[int]:
    """Return the ids of live processes with `text` in their command line or environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            alive = (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            continue
        if alive and text.encode() in words and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def history(launcher: RunningLauncher) -> dict[str, Any]:
    """Return the history of the job."""
    return dict(json.loads(launcher.get("/history")))


def steps(document: dict[str, Any], curve: str = "train") -> list[int]:
    """Return the steps of a curve of the history."""
    return [row[0] for row in document[curve]["rows"]]


def finished(start: Callable[..., RunningLauncher], **variables: object) -> RunningLauncher:
    """Return a launcher that still serves after its ranks have succeeded."""
    launcher = start("train", "train.py", linger_seconds=3600, **variables)
    eventually("the termination message", lambda: launcher.termination_log.stat().st_size > 0)
    eventually("the end in the history", lambda: history(launcher)["attempts"][-1]["state"])
    return launcher
