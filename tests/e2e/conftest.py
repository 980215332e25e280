"""Fixtures of the end-to-end tests: the operator installed by Helm, Prometheus, namespaces."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from aurl_dev.cluster.images import Image
from aurl_dev.cluster.provider import Cluster
from aurl_dev.demo import install
from aurl_dev.kube import Kube
from aurl_dev.prometheus import Prometheus, scraping


@pytest.fixture(scope="session")
def images(cluster: Cluster) -> dict[str, Image]:
    """Operator and trainer, installed by the chart from images built from this checkout."""
    return install.install(cluster, print)


@pytest.fixture(scope="session")
def kube(cluster: Cluster, images: dict[str, Image]) -> Kube:
    """The cluster with the operator in it."""
    return Kube(cluster.kubeconfig, retries=3)


@pytest.fixture(scope="session")
def prometheus(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Debian's Prometheus, scraping the cluster's pods; AURL_KEEP_PROMETHEUS is a directory for its data."""
    kept = os.environ.get("AURL_KEEP_PROMETHEUS")
    directory = Path(kept).resolve() if kept else tmp_path_factory.mktemp("prometheus")
    directory.mkdir(parents=True, exist_ok=True)
    with scraping(cluster.kubeconfig, directory) as server:
        yield server


@pytest.fixture(scope="module")
def namespace(kube: Kube) -> Iterator[str]:
    """A namespace for the test module, deleted afterwards."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    kube.ensure_namespace(name)
    yield name
    kube.kubectl("delete", "namespace", name, "--wait=false")
