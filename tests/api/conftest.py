"""Fixtures for the tests that run the operator against a real API server."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from api.api_harness import JobNamespace
from aurl_dev import crd
from aurl_dev.cluster import system
from aurl_dev.cluster.api_server import ApiServer
from aurl_dev.kube import Kube
from aurl_dev.operator_process import OperatorProcess

Kubectl = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def api(api_server: ApiServer) -> Kube:
    """The administrator's client."""
    return Kube(api_server.kubeconfig)


@pytest.fixture(scope="module")
def kubectl(api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    """kubectl on the API server; installed from Debian if it is missing."""
    system.ensure(system.KUBECTL, print)
    caches = tmp_path_factory.mktemp("discovery")

    def run(*arguments: str, given: object = None, cache: str = "shared") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                str(system.program("kubectl")),
                f"--kubeconfig={api_server.kubeconfig}",
                f"--cache-dir={caches / cache}",
                *arguments,
            ],
            input=None if given is None else json.dumps(given),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@contextmanager
def defined(api: Kube, definition: dict[str, Any]) -> Iterator[None]:
    """Define the kind within a `with`."""
    crd.create(api, definition)
    yield
    api.delete(crd.PATH)


@pytest.fixture(scope="module")
def job_kind(api: Kube) -> Iterator[None]:
    """The chart's CRD for this server."""
    with defined(api, crd.load()):
        yield


def loose_definition() -> dict[str, Any]:
    """Return a CRD that accepts any spec and status, as an older one might."""
    definition = crd.load()
    (version,) = definition["spec"]["versions"]
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    properties = {"spec": anything, "status": anything}
    version["schema"]["openAPIV3Schema"] = {"type": "object", "properties": properties}
    return definition


@pytest.fixture(scope="module")
def operator(
    api_server: ApiServer, job_kind: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """An operator that watches the whole cluster."""
    log = tmp_path_factory.mktemp("operator") / "log"
    with OperatorProcess(api_server.kubeconfig, log) as process:
        yield process
    for line in process.log_lines():
        assert line["level"] not in ("error", "critical"), line
        assert "job" not in line or "namespace" in line, line


@pytest.fixture
def ns(api: Kube, job_kind: None) -> Iterator[JobNamespace]:
    """A new namespace for the test."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    api.ensure_namespace(name)
    yield JobNamespace(api, name)
    api.delete(f"/api/v1/namespaces/{name}")
