"""Two replicas of the operator on a real API server: the lease decides which one leads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from api.api_harness import TRAINED, JobNamespace
from api.fault_proxy import FaultProxy
from aurl_dev.cluster.api_server import ApiServer
from aurl_dev.operator_process import OperatorProcess
from aurl_dev.waiting import wait_for

pytestmark = pytest.mark.api

Pair = tuple[OperatorProcess, OperatorProcess]
#: Lease durations in seconds: one that outlasts any wait here, and one that expires during a test.
LONG_LEASE, SHORT_LEASE = "60", "4"


@contextmanager
def replicas(kubeconfigs: tuple[Path, Path], logs: Path, lease: str, seconds: str) -> Iterator[Pair]:
    """Run two operators that share a lease; yields the leader first."""
    with ExitStack() as stack:
        found = []
        for number, kubeconfig in enumerate(kubeconfigs):
            flags = ("--lease", lease, "--lease-seconds", seconds)
            process = OperatorProcess(kubeconfig, logs / f"log-{number}", *flags)
            found.append(stack.enter_context(process))
            if number == 0:
                wait_for("the first replica to lead", process.is_leader)
        leader, waiting = found
        assert not waiting.is_leader()
        yield leader, waiting


def same_kubeconfigs(api_server: ApiServer) -> tuple[Path, Path]:
    """Return kubeconfigs with which both replicas reach the API server directly."""
    return api_server.kubeconfig, api_server.kubeconfig


def holder(ns: JobNamespace) -> str:
    """Return the holder of the lease."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{ns.namespace}/leases/aurl"
    return str(ns.api.get(path)["spec"].get("holderIdentity", ""))


def uids(ns: JobNamespace, job: str) -> dict[str, str]:
    """Return the UIDs of a job's pods."""
    return {name: pod["metadata"]["uid"] for name, pod in ns.pods(job).items()}


def test_a_stopped_leader_hands_over_immediately_and_disturbs_nothing(
    ns: JobNamespace, api_server: ApiServer, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    lease = f"{ns.namespace}/aurl"
    with replicas(same_kubeconfigs(api_server), tmp_path, lease, LONG_LEASE) as (leader, waiting):
        for name in ("done", "busy"):
            ns.create_job(name, numNodes=1)
            ns.prepare(name)
            ns.train(name, nodes=1)
        ns.succeed("done-0-0", TRAINED)
        ns.state("done", "Succeeded")
        ns.delete("pods", "done-0-0")
        before = {name: uids(ns, name) for name in ("done", "busy")}
        # The standby is up to date and healthy, and does nothing.
        assert waiting.get("/healthz") == (200, "ok")
        assert waiting.get("/readyz") == (200, f"ok, standby: the leader is {holder(ns)}")
        assert leader.get("/readyz") == (200, "ok, leader")
        assert waiting.writes() == 0
        # The leader counts its own write once the server has answered.
        wait_for("the leader's count", lambda: leader.metric("aurl_operator_jobs", state="Running") == 1)
        assert waiting.metric("aurl_operator_jobs", state="Running") == 0

        began = time.monotonic()
        assert leader.stop() == 0
        # An unreleased lease would outlast this wait.
        wait_for("the other replica to lead", waiting.is_leader)
        record_property("hand_over_seconds", time.monotonic() - began)
        ns.create_job("later", numNodes=1)
        ns.prepare("later")
        ns.train("later", nodes=1)
        assert {name: uids(ns, name) for name in ("done", "busy")} == before
        assert ns.status("done")["state"] == "Succeeded"
        assert ns.status("busy")["restarts"]["total"] == 0
        assert waiting.metric("aurl_operator_reconciles_total", result="error") == 0

        # An upgrade adds a new replica, which stands by.
        leader.start()
        assert not leader.is_leader()
        assert waiting.is_leader()


def test_a_killed_leader_is_replaced_without_duplicates(
    ns: JobNamespace, api_server: ApiServer, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    lease = f"{ns.namespace}/aurl"
    with replicas(same_kubeconfigs(api_server), tmp_path, lease, SHORT_LEASE) as (leader, waiting):
        ns.create_job("many", numNodes=20)
        ns.prepare("many")
        wait_for("the first workers", lambda: len(ns.pods("many")) > 3)
        leader.kill()
        began, before = time.monotonic(), uids(ns, "many")
        wait_for("the other replica to lead", waiting.is_leader)
        record_property("take_over_seconds", time.monotonic() - began)
        ns.train("many", nodes=20)
        after = uids(ns, "many")
        assert len(after) == 21
        assert {name: after[name] for name in before} == before
        assert ns.status("many")["restarts"]["total"] == 0
        assert ns.status("many")["attempt"] == 0


def test_a_leader_that_was_frozen_does_nothing_after_it_thaws(
    ns: JobNamespace, api_server: ApiServer, tmp_path: Path
) -> None:
    lease = f"{ns.namespace}/aurl"
    with (
        FaultProxy(api_server.kubeconfig) as proxy,
        replicas((proxy.kubeconfig, api_server.kubeconfig), tmp_path, lease, SHORT_LEASE) as (
            leader,
            waiting,
        ),
    ):
        ns.create_job("torn", numNodes=2, runPolicy__backoffLimit=1)
        ns.prepare("torn")
        ns.train("torn")
        # Its last work: after that it is idle, so no request is in flight when it freezes.
        ns.event("torn", "Running")
        leader.freeze()
        # It finds these in its sockets when it thaws.
        ns.fail("torn-0-1", 1)
        ns.create_job("fresh", numNodes=1)
        wait_for("the other replica to lead", waiting.is_leader)
        ns.wait_pods("torn", "torn-1-0", "torn-1-1")
        ns.wait_pods("fresh", "fresh-prepare-0")
        before = uids(ns, "torn") | uids(ns, "fresh")
        ns.fail("torn-1-1", 1)
        ns.state("torn", "Failed")
        # Requests sent before it froze have arrived, whether it has read the answers or not.
        writes = proxy.writes()
        leader.thaw()
        wait_for("the first replica to notice", lambda: "lost leadership" in leader.log())
        wait_for("the first replica to see it all", lambda: "standby:" in leader.get("/readyz")[1])
        assert not leader.is_leader()
        assert waiting.is_leader()
        assert proxy.writes() == writes
        assert ns.status("torn")["restarts"]["total"] == 1
        assert (uids(ns, "torn") | uids(ns, "fresh")).items() <= before.items()
        # It can lead again.
        waiting.stop()
        wait_for("the first replica to lead again", leader.is_leader)
        ns.prepare("fresh")
        ns.train("fresh", nodes=1)


def test_a_leader_that_cannot_reach_the_api_server_stops_before_another_starts(
    ns: JobNamespace, api_server: ApiServer, tmp_path: Path
) -> None:
    lease = f"{ns.namespace}/aurl"
    with (
        FaultProxy(api_server.kubeconfig) as proxy,
        replicas((proxy.kubeconfig, api_server.kubeconfig), tmp_path, lease, SHORT_LEASE) as (cut, other),
    ):
        ns.create_job("split", numNodes=1)
        ns.prepare("split")
        proxy.add("hang")
        proxy.deafen("")

        def handed_over() -> bool:
            # In this order: the new leader may have been leading before the old one answered no.
            second, first = other.is_leader(), cut.is_leader()
            assert not (first and second), "two leaders"
            return second

        wait_for("the other replica to lead", handed_over)
        ns.train("split", nodes=1)
        assert cut.get("/healthz") == (200, "ok")
        proxy.heal()
        proxy.cut()
        wait_for("the first one to see the leader", lambda: holder(ns) in cut.get("/readyz")[1])
        assert not cut.is_leader()
