"""Debian's Prometheus: on recorded data, or scraping the pods of a cluster that are annotated for it."""

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
        """Return the series of an instant query, each with `metric` (labels) and `value` (time, text)."""
        return self._ask("query", query=expression)

    def over(self, expression: str, begin: float, end: float, step: float = 2.0) -> list[dict[str, Any]]:
        """Return the series of a range query, each with `metric` and `values` ((time, text) per `step` s)."""
        # A server returns at most 11,000 points per series.
        step = max(step, (end - begin) / 10_000)
        return self._ask("query_range", query=expression, start=begin, end=end, step=step)

    def _ask(self, path: str, **parameters: str | float) -> list[dict[str, Any]]:
        answer = requests.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30).json()
        if answer["status"] != "success":
            raise ValueError(f"{parameters['query']}: {answer}")
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def value(self, expression: str) -> float | None:
        """Return the value of the first series, or None."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else None


def targets(pods: list[Object]) -> list[dict[str, Any]]:
    """Return the pods annotated for scraping, in the format of Prometheus' file discovery."""
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
    """Rewrite the targets every second. Debian's Prometheus is built without Kubernetes discovery."""
    while not stop.wait(1):
        partial = file.with_suffix(".tmp")
        partial.write_text(json.dumps(targets(kube.items("/api/v1/pods"))))
        partial.replace(file)


@contextmanager
def scraping(kubeconfig: Path, directory: Path) -> Iterator[Prometheus]:
    """Run a server that scrapes a cluster's pods, with its data in `directory`."""
    discovered = directory / "pods.json"
    discovered.write_text("[]")
    every = f"{SCRAPE_SECONDS}s"
    pods = {"job_name": "pods", "file_sd_configs": [{"files": [str(discovered)], "refresh_interval": "1s"}]}
    timing = {"scrape_interval": every, "scrape_timeout": every}
    stop = threading.Event()
    kube = Kube(kubeconfig, retries=3)
    discovery = threading.Thread(target=keep_discovering, args=(kube, discovered, stop))
    discovery.start()
    try:
        with serving(directory, {"global": timing, "scrape_configs": [pods]}) as prometheus:
            yield prometheus
    finally:
        stop.set()
        discovery.join()


@contextmanager
def serving(directory: Path, config: dict[str, Any], *flags: str) -> Iterator[Prometheus]:
    """Run a server on a free port, with its data in `directory`/data."""
    system.ensure(("prometheus",), print)
    address = f"127.0.0.1:{free_port()}"
    config_file = directory / "prometheus.yml"
    config_file.write_text(yaml.safe_dump(config))
    command = [
        str(system.program("prometheus")),
        f"--config.file={config_file}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}",
        *flags,
    ]
    with (directory / "prometheus.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        prometheus = Prometheus(f"http://{address}")
        wait_for("Prometheus to be ready", lambda: _ready(prometheus.url))
        yield prometheus
    finally:
        server.terminate()
        server.wait(timeout=30)


def _ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/-/ready", timeout=2).ok
    except requests.ConnectionError:
        return False
