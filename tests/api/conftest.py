"""Fixtures of the tests that run the operator against a real API server."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.api_harness import Playground, wait_for
from aurl_dev.cluster import system
from aurl_dev.cluster.api import Api, ApiError
from aurl_dev.cluster.control_plane import ApiServer
from aurl_dev.operator_process import OperatorProcess
from aurl_operator.crd import resource

CRD_FILE = Path(__file__).resolve().parents[2] / "charts/aurl-operator/files/crd.yaml"
CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CRD_NAME = "aurltrainingjobs.aurl.ai"
Kubectl = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def api(api_server: ApiServer) -> Api:
    """The administrator's client."""
    return Api(api_server.kubeconfig)


@pytest.fixture(scope="module")
def kubectl(api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    """The kubectl of this machine, on the API server; installed from Debian where there is none."""
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
def defined(api: Api, definition: dict[str, Any]) -> Iterator[None]:
    """The kind, for the time of a `with`."""

    def create() -> bool:
        try:
            api.request("POST", CRD_PATH, definition)
        except ApiError as error:
            # An earlier module's definition may still be on its way out.
            if error.code != 409:
                raise
            return False
        return True

    wait_for("the CRD to be created", create)
    wait_for("the kind to be served", lambda: api.status("/apis/aurl.ai/v1alpha1/aurltrainingjobs") == 200)
    yield
    api.delete(f"{CRD_PATH}/{CRD_NAME}")


@pytest.fixture(scope="module")
def job_kind(api: Api) -> Iterator[None]:
    """The CRD as the chart has it for this server."""
    with defined(api, yaml.safe_load(resource.without_cel(CRD_FILE.read_text()))):
        yield


def loose_definition() -> dict[str, Any]:
    """A definition that takes anything as spec and status, as an older one might."""
    definition: dict[str, Any] = yaml.safe_load(resource.without_cel(CRD_FILE.read_text()))
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
def ground(api: Api, job_kind: None) -> Iterator[Playground]:
    """A namespace of the test's own."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    wait_for(
        "the default service account",
        lambda: api.status(f"/api/v1/namespaces/{name}/serviceaccounts/default") == 200,
    )
    yield Playground(api, name)
    api.delete(f"/api/v1/namespaces/{name}")
