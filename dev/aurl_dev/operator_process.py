"""Run the real operator as a process, against a real API server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from prometheus_client.parser import text_string_to_metric_families

from aurl_dev.cluster.paths import CHECKOUT
from aurl_dev.ports import free_port

TRAINER_IMAGE = "registry.test/aurl-trainer:test"
#: `python -m aurl_operator` without the package `kubernetes` (13 MB): kopf imports it; the image has none.
AS_IN_THE_IMAGE = """
import sys
sys.modules["kubernetes"] = None
from aurl_operator.main import main
sys.exit(main())
"""


class OperatorProcess:
    """`python -m aurl_operator`, which can be started and stopped repeatedly. Its log is kept in a file."""

    def __init__(self, kubeconfig: Path, log: Path, *flags: str) -> None:
        self._kubeconfig, self._log, self._flags = kubeconfig, log, flags
        self._process: subprocess.Popen[bytes] | None = None
        self._stream: IO[bytes] | None = None
        self.port = 0
        self.seconds_to_ready = 0.0
        """From the start of the process until /readyz succeeded."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.thaw()
            self.stop()

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    def start(self, *, wait: bool = True) -> None:
        """Start the process; with `wait`, until it is ready."""
        self.port = free_port()
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("AURL_")},
            "KUBECONFIG": str(self._kubeconfig),
            "PYTHONPATH": str(CHECKOUT / "operator"),
            "AURL_TRAINER_IMAGE": TRAINER_IMAGE,
            "AURL_PROGRESS_INTERVAL_SECONDS": "0.5",
        }
        self._stream = self._log.open("ab")
        command = [sys.executable, "-c", AS_IN_THE_IMAGE, "--http-port", str(self.port), *self._flags]
        began = time.monotonic()
        self._process = subprocess.Popen(command, env=environment, stdout=self._stream, stderr=self._stream)
        if wait:
            self.wait_ready()
            self.seconds_to_ready = round(time.monotonic() - began, 2)

    def wait_ready(self, seconds: float = 40) -> None:
        """Wait until /readyz succeeds."""
        deadline = time.monotonic() + seconds
        while self.get("/readyz")[0] != 200:
            assert self._process is not None
            assert self._process.poll() is None, f"the operator terminated:\n{self.log()[-4000:]}"
            assert time.monotonic() < deadline, f"the operator is not ready:\n{self.log()[-4000:]}"
            time.sleep(0.05)

    def get(self, path: str) -> tuple[int, str]:
        """Return status and text of a page of the operator; status 0 if it is unreachable."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name: str, **labels: str) -> float:
        """Return the value of the sample with this name and these labels."""
        found = self.metrics()
        assert (name, frozenset(labels.items())) in found, f"no sample {name} {labels} in {list(found)}"
        return found[name, frozenset(labels.items())]

    def log(self) -> str:
        """Return everything logged so far."""
        return self._log.read_text() if self._log.exists() else ""

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the parsed log; every line must be JSON."""
        return [json.loads(line) for line in self.log().splitlines()]

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Return all samples by name and labels."""
        _, page = self.get("/metrics")
        return {
            (sample.name, frozenset(sample.labels.items())): float(sample.value)
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }

    def writes(self) -> float:
        """Return the number of answered write requests, without those for the lease."""
        return sum(
            value
            for (name, labels), value in self.metrics().items()
            if name == "aurl_operator_api_requests_total"
            and dict(labels)["verb"] in ("post", "put", "patch", "delete")
            and dict(labels)["resource"] != "leases"
        )

    def is_leader(self) -> bool:
        """True if this replica reports that it is the leader."""
        return "\naurl_operator_leader 1.0" in self.get("/metrics")[1]

    def freeze(self) -> None:
        """Send SIGSTOP: the process stops, its connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """Send SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        assert self._process is not None and self._stream is not None
        self._process.send_signal(number)
        try:
            code = self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"the operator did not stop:\n{self.log()[-4000:]}") from None
        finally:
            self._stream.close()
            self._process = None
        return code
