"""`make bench-startup`: from exec to the first answer, into build/bench/startup.json.

- launcher: until it has served `/metrics` for the first time;
- operator: until the first job has a state, on a real API server, including acquiring the lease. It runs with
  only the packages of its lock file, as in its image, because kopf imports every Kubernetes client it finds.

CPU seconds are those of the process; they hardly depend on the load of the machine.
"""

from __future__ import annotations

import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from aurl_dev import crd
from aurl_dev.bench import result
from aurl_dev.bench.process import cpu_seconds
from aurl_dev.cluster.api_server import ApiServer
from aurl_dev.cluster.paths import CHECKOUT
from aurl_dev.jobs import small
from aurl_dev.kube import Kube, jobs_path
from aurl_dev.ports import free_port

PATIENCE: Final = 60.0
"""Seconds after which a start counts as failed."""


def start(
    command: list[str], environment: Mapping[str, str], answered: Callable[[], bool]
) -> dict[str, float]:
    """Start a process, wait for its first answer, and terminate it."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("AURL_")}
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        process = subprocess.Popen(command, env={**clean, **environment}, stdout=log, stderr=log)
        try:
            while not answered():
                if process.poll() is not None or time.perf_counter() - began > PATIENCE:
                    log.seek(0)
                    raise SystemExit(f"{command} gives no answer: {log.read().decode()[-2000:]}")
                time.sleep(0.002)
            wall = time.perf_counter() - began
            return {"wall": wall, "cpu": cpu_seconds(process.pid)}
        finally:
            process.terminate()
            process.wait()


def launcher() -> dict[str, float]:
    """Start a launcher; the preparation that it runs waits for its configuration."""
    port = free_port()

    def served() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            connection.request("GET", "/metrics")
            return b"aurl_train_state" in connection.getresponse().read()
        except ConnectionError:
            return False
        finally:
            connection.close()

    with tempfile.TemporaryDirectory() as place:
        pipe = Path(place) / "job.yaml"
        os.mkfifo(pipe)  # opening it blocks the preparation
        contract = {
            "VOLUME": place, "RUN_DIR": f"{place}/run", "CONFIG": str(pipe), "HTTP_PORT": str(port),
            "GRACE_SECONDS": "1", "TERMINATION_LOG": f"{place}/message",
        }  # fmt: skip
        environment = {f"AURL_{name}": value for name, value in contract.items()}
        command = [sys.executable, "-m", "aurl_trainer", "launch", "prepare"]
        return start(command, environment | {"PYTHONPATH": str(CHECKOUT / "trainer")}, served)


def operator_python() -> Path:
    """Return an interpreter with only the operator's packages; creates it if the lock file has changed."""
    home = CHECKOUT / "build/bench/operator-venv"
    python, ready = home / "bin/python", home / ".ready"
    lock = CHECKOUT / "operator/requirements.lock"
    if not ready.exists() or ready.read_text() != lock.read_text():
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", lock], check=True)
        ready.write_text(lock.read_text())
    return python


def operator(python: Path, server: ApiServer, api: Kube) -> dict[str, float]:
    """Start an operator that finds one new job."""
    port = free_port()
    name = f"start-{uuid.uuid4().hex[:8]}"
    api.ensure_namespace(name)
    api.request("POST", jobs_path(name), small("first"))
    environment = {
        "KUBECONFIG": str(server.kubeconfig),
        "PYTHONPATH": str(CHECKOUT / "operator"),
        "AURL_TRAINER_IMAGE": "registry.test/aurl-trainer:test",
        "AURL_LEASE": f"{name}/operator",
    }
    command = [str(python), "-m", "aurl_operator", "--http-port", str(port)]

    def known() -> bool:
        return bool(((api.job(name, "first") or {}).get("status") or {}).get("state"))

    seconds = start(command, environment, known)
    api.delete(f"{jobs_path(name)}/first")
    return seconds


def median(runs: list[dict[str, float]]) -> dict[str, Any]:
    """Return the median and all values of each figure, in milliseconds."""
    figures = {key: [round(1000 * run[key]) for run in runs] for key in ("wall", "cpu")}
    return {f"{key}_ms": {"median": statistics.median(all_), "all": all_} for key, all_ in figures.items()}


def main() -> None:
    """Measure and write the result."""
    parser = result.parser("startup", __doc__)
    parser.add_argument("--repeats", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--only", choices=("launcher", "operator"), help="measure one of them")
    options = parser.parse_args()
    repeats = 1 if options.smallest else options.repeats
    results = result.start(options)
    if options.only != "operator":
        launcher()  # compiles bytecode that is missing
        results["launcher"] = median([launcher() for _ in range(repeats)])
    if options.only != "launcher":
        python = Path(sys.executable) if options.smallest else operator_python()
        with ApiServer(echo=print) as server:
            api = Kube(server.kubeconfig)
            crd.create(api, crd.load())
            operator(python, server, api)
            results["operator"] = median([operator(python, server, api) for _ in range(repeats)])
    result.show(results, options)


if __name__ == "__main__":
    main()
