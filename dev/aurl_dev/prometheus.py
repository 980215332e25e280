"""Debian's Prometheus, scraping the pods of a cluster that ask for it by annotation."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml

from aurl_dev.cluster import system
from aurl_dev.kube import Kube, Object
from aurl_dev.ports import free_port
from aurl_dev.waiting import wait_for

SCRAPE_SECONDS = 2


@dataclass
class Prometheus:
    """A running server."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query, each with `metric` (labels) and `value` (time, text)."""
        answer = requests.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=10).json()
        if answer["status"] != "success":
            raise ValueError(f"{expression}: {answer}")
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def over(self, expression: str, begin: float, end: float, step: float = 2.0) -> list[dict[str, Any]]:
        """The series of a range query, each with `metric` and `values` ((time, text) by `step` seconds)."""
        # A server answers at most 11,000 points per series.
        step = max(step, (end - begin) / 10_000)
        query: dict[str, str | float] = {"query": expression, "start": begin, "end": end, "step": step}
        answer = requests.get(f"{self.url}/api/v1/query_range", params=query, timeout=30).json()
        if answer["status"] != "success":
            raise ValueError(f"{expression}: {answer}")
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def value(self, expression: str) -> float | None:
        """The value of the first series, or None where there is none."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else None


def targets(pods: list[Object]) -> list[dict[str, Any]]:
    """The pods that ask to be scraped, by annotation, as Prometheus' file discovery wants them."""
    found = []
    for pod in pods:
        annotations = pod["metadata"].get("annotations") or {}
        address = pod["status"].get("podIP")
        if annotations.get("prometheus.io/scrape") != "true" or pod["status"].get("phase") != "Running":
            continue
        labels = {
            "__metrics_path__": annotations.get("prometheus.io/path", "/metrics"),
            "namespace": pod["metadata"]["namespace"],
            "pod": pod["metadata"]["name"],
            "training_job": (pod["metadata"].get("labels") or {}).get("aurl.ai/job-name", ""),
        }
        found.append({"targets": [f"{address}:{annotations['prometheus.io/port']}"], "labels": labels})
    return found


def keep_discovering(kube: Kube, file: Path, stop: threading.Event) -> None:
    """Write the targets anew every second. Debian's Prometheus is built without Kubernetes discovery."""
    while not stop.wait(1):
        partial = file.with_suffix(".tmp")
        partial.write_text(json.dumps(targets(kube.items("/api/v1/pods"))))
        partial.replace(file)


@contextmanager
def running(kubeconfig: Path, directory: Path) -> Iterator[Prometheus]:
    """Start Prometheus on a free port with its state in `directory`; stop exactly it in the end."""
    system.ensure(("prometheus",), print)
    address = f"127.0.0.1:{free_port()}"
    config = directory / "prometheus.yml"
    discovered = directory / "pods.json"
    discovered.write_text("[]")
    every = f"{SCRAPE_SECONDS}s"
    pods = {"job_name": "pods", "file_sd_configs": [{"files": [str(discovered)], "refresh_interval": "1s"}]}
    timing = {"scrape_interval": every, "scrape_timeout": every}
    config.write_text(yaml.safe_dump({"global": timing, "scrape_configs": [pods]}))
    stop = threading.Event()
    discovery = threading.Thread(
        target=keep_discovering, args=(Kube(kubeconfig, retries=3), discovered, stop)
    )
    discovery.start()
    with (directory / "prometheus.log").open("wb") as log:
        server = subprocess.Popen(
            [
                str(system.program("prometheus")),
                f"--config.file={config}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        prometheus = Prometheus(f"http://{address}")
        wait_for("Prometheus to be ready", lambda: _ready(prometheus.url))
        yield prometheus
    finally:
        stop.set()
        discovery.join()
        server.terminate()
        server.wait(timeout=30)


def _ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/-/ready", timeout=2).ok
    except requests.ConnectionError:
        return False
