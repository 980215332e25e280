"""The CRD on a real API server: accepted, published, explained; it rejects bad input with the path."""

from __future__ import annotations

import copy
import itertools
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.conftest import Kubectl
from aurl_dev.cluster.api_server import ApiServer
from aurl_operator.crd import resource

pytestmark = pytest.mark.api

ROOT = Path(__file__).resolve().parents[2]
CRD = ROOT / "charts/aurl-operator/files/crd.yaml"
Object = dict[str, Any]

GOOD: Object = {
    "apiVersion": "aurl.ai/v1alpha1",
    "kind": "AurlTrainingJob",
    "metadata": {"name": "chorales"},
    "spec": {
        "numNodes": 2,
        "resourcesPerNode": {
            "requests": {"cpu": "500m", "memory": "1Gi"},
            "limits": {"memory": "2Gi", "nvidia.com/gpu": 1},
        },
        "storage": {"claimTemplate": {"size": "2Gi"}},
        "dataset": {"source": {"music21Corpus": {"collection": "chorales"}}},
        "training": {"steps": 400, "model": {"dropout": 0.1}},
    },
}


@pytest.fixture(scope="module")
def crd(kubectl: Kubectl, api_server: ApiServer) -> Iterator[None]:
    """The CRD as the chart renders it for this server, once its schema is published."""
    definition = yaml.safe_load(resource.without_cel(CRD.read_text()))
    # Distinguishes our CRD from that of an earlier module, which stays published for a while.
    token = secrets.token_hex(4)
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["description"] += f" {token}"
    kubectl("wait", "--for=delete", f"crd/{definition['metadata']['name']}", "--timeout=60s", cache="early")
    applied = kubectl("apply", "-f", "-", given=definition, cache="early")
    assert applied.returncode == 0, applied.stderr
    deadline = time.monotonic() + 60
    # kubectl caches discovery and does not ask again for a short name that it does not know.
    for attempt in itertools.count():
        if token in kubectl("explain", "atj", cache=f"early-{attempt}").stdout:
            break
        assert time.monotonic() < deadline, "the API server does not publish the schema"
        time.sleep(0.2)
    yield
    kubectl("delete", "crd", definition["metadata"]["name"])


@pytest.mark.usefixtures("crd")
class TestAccepted:
    """The API server accepts and publishes the CRD."""

    def test_the_schema_is_structural(self, kubectl: Kubectl) -> None:
        """Established, names accepted, and no condition NonStructuralSchema."""
        found = kubectl("get", "crd", "aurltrainingjobs.aurl.ai", "-o", "json")
        conditions = {
            each["type"]: each["status"] for each in json.loads(found.stdout)["status"]["conditions"]
        }
        assert conditions == {"NamesAccepted": "True", "Established": "True"}

    def test_short_name_and_category(self, kubectl: Kubectl) -> None:
        """`atj`, and `kubectl get all` lists jobs."""
        listed = kubectl("api-resources", "--api-group=aurl.ai", "--no-headers").stdout.split()
        assert listed[:2] == ["aurltrainingjobs", "atj"]
        job = copy.deepcopy(GOOD)
        job["metadata"]["name"] = "grouped"
        assert kubectl("create", "-f", "-", given=job).returncode == 0
        assert "aurltrainingjob.aurl.ai/grouped" in kubectl("get", "all", "-o", "name").stdout.split()
        assert kubectl("delete", "atj", "grouped").returncode == 0

    @pytest.mark.parametrize(
        ("path", "said"),
        [
            ("aurltrainingjob.spec.training", "Training configuration: model, losses, optimizer,"),
            ("atj.spec.training.steps", "Optimizer steps of the whole job. 1 to 1000000000. Default: 1000."),
            ("atj.spec.training.model.dropout", "At least 0 and less than 1. Default: 0."),
            ("atj.spec.storage", "Exactly one of claimName, claimTemplate must be set."),
            ("atj.spec.dataset.source.music21Corpus", "collection"),
            ("atj.spec.runPolicy.cleanPodPolicy", "One of None, Running, All. Default: Running."),
            ("atj.status.lastFailure.class", "UserError"),
        ],
    )
    def test_explain(self, kubectl: Kubectl, path: str, said: str) -> None:
        """The cluster documents unit, default and bounds of every field."""
        explained = kubectl("explain", path)
        assert explained.returncode == 0, explained.stderr
        assert said in " ".join(explained.stdout.split())

    def test_columns(self, kubectl: Kubectl) -> None:
        """`kubectl get atj` with a status as the operator writes it."""
        job = copy.deepcopy(GOOD)
        job["metadata"]["name"] = "columns"
        created = kubectl("create", "-f", "-", "-o", "json", given=job)
        assert created.returncode == 0, created.stderr
        stored = json.loads(created.stdout)
        stored["status"] = {
            "state": "Running",
            "nodes": {"desired": 2, "ready": 2},
            "progress": {"step": 120, "totalSteps": 400, "loss": 2.375, "tokensPerSecond": 5120},
            "lastCheckpoint": {"step": 100},
            "restarts": {"total": 1},
        }
        path = "/apis/aurl.ai/v1alpha1/namespaces/default/aurltrainingjobs/columns/status"
        written = kubectl("replace", "--raw", path, "-f", "-", given=stored)
        assert written.returncode == 0, written.stderr
        header, row = kubectl("get", "atj", "columns").stdout.splitlines()
        assert header.split() == [
            "NAME",
            "STATE",
            "NODES",
            "STEP",
            "LOSS",
            "TOK/S",
            "CKPT",
            "RESTARTS",
            "AGE",
        ]
        assert row.split()[:-1] == ["columns", "Running", "2", "120", "2.375", "5120", "100", "1"]
        assert kubectl("delete", "atj", "columns").returncode == 0

    def test_the_status_is_a_subresource(self, kubectl: Kubectl) -> None:
        """A user's `apply` cannot write it."""
        job = copy.deepcopy(GOOD) | {"status": {"state": "Succeeded"}}
        made = kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", given=job)
        assert made.returncode == 0, made.stderr
        assert "status" not in json.loads(made.stdout)


def _with(changes: Mapping[str, Any]) -> Object:
    job = copy.deepcopy(GOOD)
    for path, value in changes.items():
        *parents, last = path.split(".")
        at = job
        for part in parents:
            at = at.setdefault(part, {})
        at[last] = value
    return job


@pytest.mark.usefixtures("crd")
class TestRefused:
    """`kubectl apply` rejects bad input."""

    def test_good_input_is_accepted(self, kubectl: Kubectl) -> None:
        """The job from which the bad ones are derived."""
        applied = kubectl("apply", "--dry-run=server", "-f", "-", given=GOOD)
        assert applied.returncode == 0, applied.stderr

    def test_job_files_of_the_project(self, kubectl: Kubectl) -> None:
        """Every file in configs/jobs is accepted unchanged."""
        files = sorted((ROOT / "configs/jobs").glob("*.yaml"))
        assert files
        for path in files:
            applied = kubectl("apply", "--dry-run=server", "-f", str(path))
            assert applied.returncode == 0, f"{path.name}: {applied.stderr}"

    @pytest.mark.parametrize(
        ("changes", "where", "what"),
        [
            ({"spec.training.stepz": 3}, "spec.training", 'unknown field "stepz"'),
            ({"spec.training.model.dropot": 0.1}, "spec.training.model", 'unknown field "dropot"'),
            ({"spec.dataset.tokeniser": {}}, "spec.dataset", 'unknown field "tokeniser"'),
            ({"spec.numNode": 2}, "spec", 'unknown field "numNode"'),
            ({"spec.training.model.dropout": 1.0}, "spec.training.model.dropout", "less than 1"),
            ({"spec.training.steps": 0}, "spec.training.steps", "greater than or equal to 1"),
            ({"spec.training.steps": "many"}, "spec.training.steps", 'got "string", expected "integer"'),
            ({"spec.training.precision": "fp8"}, "spec.training.precision", '"fp32", "bf16", "fp16"'),
            ({"spec.numNodes": 0}, "spec.numNodes", "greater than or equal to 1"),
            ({"spec.runPolicy.cleanPodPolicy": "Some"}, "spec.runPolicy.cleanPodPolicy", "supported values"),
            ({"spec.storage.claimName": "mine"}, "spec.storage", "one and only one"),
            ({"spec.storage": {}}, "spec.storage", "one and only one"),
            ({"spec.storage.claimTemplate.size": "2 GB"}, "spec.storage.claimTemplate.size", "should match"),
            (
                {"spec.resourcesPerNode.limits.memory": 1.5},
                "spec.resourcesPerNode.limits.memory",
                "integer,string",
            ),
            ({"spec.podTemplate.volumes": [{"name": "v", "mountPath": "/v"}]}, "volumes", "one and only one"),
            ({"metadata.name": "bach.chorales"}, "metadata.name", "should match"),
            ({"metadata.name": "b" * 51}, "metadata.name", "at most 50"),
        ],
    )
    def test_bad_input(self, kubectl: Kubectl, changes: Mapping[str, Any], where: str, what: str) -> None:
        """Rejected with path and reason."""
        applied = kubectl("apply", "-f", "-", given=_with(changes))
        assert applied.returncode != 0, applied.stdout
        assert where in applied.stderr
        assert what in applied.stderr
