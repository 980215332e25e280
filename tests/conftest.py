"""Fixtures that start what the tests run against; failing to start is an error, never a skip."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator

import pytest

from aurl_dev.cluster import provider
from aurl_dev.cluster.api_server import ApiServer
from aurl_dev.cluster.paths import CHECKOUT
from aurl_dev.cluster.provider import Cluster


@pytest.fixture(scope="session")
def echo(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Print progress past pytest's capture, so that a long step does not look dead."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(text: str) -> None:
        if capture is None:
            print(text, flush=True)
        else:
            with capture.global_and_fixture_disabled():
                print(f"\n{text}", end="", flush=True)

    return say


@pytest.fixture(scope="session")
def api_server(echo: Callable[[str], None]) -> Iterator[ApiServer]:
    """A real API server with etcd and controller-manager, on free ports; no kubelet."""
    with ApiServer(echo=echo) as server:
        yield server


@pytest.fixture(scope="session")
def cluster(echo: Callable[[str], None]) -> Iterator[Cluster]:
    """A complete cluster with a kubelet; deleted afterwards unless AURL_KEEP_CLUSTER=1."""
    place = hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:8]
    name = os.environ.get("AURL_TEST_CLUSTER") or f"test-{place}"
    running = provider.ensure(name, echo)
    yield running
    if os.environ.get("AURL_KEEP_CLUSTER") != "1":
        running.down()
