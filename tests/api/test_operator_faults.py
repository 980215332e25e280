"""Faults of network and API server, injected between the operator and a real API server."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.api_harness import JobNamespace
from api.fault_proxy import FaultProxy
from aurl_dev.cluster.api_server import ApiServer
from aurl_dev.operator_process import OperatorProcess
from aurl_dev.waiting import wait_for

pytestmark = pytest.mark.api

#: Seconds of an outage; the operator must survive two minutes (kopf alone did not survive one).
OUTAGE = float(os.environ.get("AURL_TEST_OUTAGE_SECONDS", "6"))
RESYNC, IDLE = "4", "2"
PODS_WATCH = "/api/v1/pods?watch=true"
JOBS_WATCH = "/aurltrainingjobs?watch=true"


@pytest.fixture(scope="module")
def proxy(api_server: ApiServer) -> Iterator[FaultProxy]:
    """The proxy between operator and API server."""
    with FaultProxy(api_server.kubeconfig) as found:
        yield found


@pytest.fixture(scope="module")
def operator(
    proxy: FaultProxy, job_kind: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """One operator for all tests of the module."""
    log = tmp_path_factory.mktemp("operator") / "log"
    flags = ("--resync-interval", RESYNC, "--watch-idle-seconds", IDLE)
    with OperatorProcess(proxy.kubeconfig, log, *flags) as process:
        yield process


@pytest.fixture(autouse=True)
def healed(proxy: FaultProxy, operator: OperatorProcess) -> Iterator[None]:
    """Remove all faults after a test, and check that no reconcile failed."""
    yield
    proxy.heal()
    assert operator.metric("aurl_operator_reconciles_total", result="error") == 0


def brought_up(ns: JobNamespace, job: str, nodes: int = 2) -> None:
    """Run a job's workers, and check that there is no extra pod and no restart."""
    ns.prepare(job)
    ns.train(job, nodes=nodes)
    assert len(ns.pods(job)) == nodes + 1
    assert ns.status(job)["restarts"]["total"] == 0
    assert ns.status(job)["attempt"] == 0


def test_server_errors_for_a_while_are_survived(
    ns: JobNamespace, proxy: FaultProxy, operator: OperatorProcess
) -> None:
    ns.create_job("before", numNodes=1)
    ns.wait_pods("before", "before-prepare-0")
    rule = proxy.add("answer", code=500)
    proxy.cut()
    ns.create_job("during", numNodes=1)
    ends = time.monotonic() + OUTAGE
    wait_for("the outage to end", lambda: time.monotonic() > ends, OUTAGE + 10)
    assert rule.hits > 0
    # Restarting the operator would not bring the server back.
    assert operator.get("/healthz") == (200, "ok")
    proxy.heal()
    brought_up(ns, "before", nodes=1)
    brought_up(ns, "during", nodes=1)
    assert ns.event("during", "Preparing")["type"] == "Normal"


def test_retry_after_is_obeyed(ns: JobNamespace, proxy: FaultProxy) -> None:
    path = f"/namespaces/{ns.namespace}/pods"
    proxy.add("answer", "POST", containing=path, code=429, headers={"Retry-After": "2"}, times=1)
    ns.create_job("throttled", numNodes=1)
    brought_up(ns, "throttled", nodes=1)
    times = [at for at, method, where in proxy.requests if method == "POST" and where.endswith(path)]
    assert times[1] - times[0] >= 2


def test_conflicts_are_resolved(ns: JobNamespace, proxy: FaultProxy) -> None:
    rule = proxy.add("answer", "PATCH", containing=f"{ns.namespace}/aurl", code=409, times=4)
    ns.create_job("contested")
    brought_up(ns, "contested")
    assert rule.times == 0


def test_a_lost_answer_creates_no_duplicates(ns: JobNamespace, proxy: FaultProxy) -> None:
    rule = proxy.add("lose_answer", "POST", containing=f"/{ns.namespace}/", times=8)
    ns.create_job("unheard", numNodes=6)
    brought_up(ns, "unheard", nodes=6)
    assert rule.times == 0


def test_cut_connections_are_survived(ns: JobNamespace, proxy: FaultProxy) -> None:
    ns.create_job("severed", numNodes=8)
    proxy.cut()
    ns.prepare("severed")
    proxy.cut()
    wait_for("the first workers", lambda: len(ns.pods("severed")) > 2)
    proxy.cut()
    ns.train("severed", nodes=8)
    assert len(ns.pods("severed")) == 9
    assert ns.status("severed")["restarts"]["total"] == 0


def test_blocked_connections_are_survived(
    ns: JobNamespace, proxy: FaultProxy, operator: OperatorProcess
) -> None:
    """As behind a firewall that has dropped its state: connections stay open without answers."""
    ns.create_job("blocked")
    ns.prepare("blocked")
    workers = ("blocked-0-0", "blocked-0-1")
    ns.wait_pods("blocked", *workers)
    ns.state("blocked", "Starting")
    # A blocked request takes 20 s: of the status writes, which follow each other, only one is blocked.
    rule = proxy.add("hang", "PATCH", containing="/blocked/status", times=1)
    proxy.add("hang", "POST", containing=f"/{ns.namespace}/events", times=2)
    assert proxy.deafen("") > 0
    for name in workers:
        ns.run(name)
    ns.state("blocked", "Running", 35)
    assert rule.hits > 0
    assert ns.status("blocked")["restarts"]["total"] == 0
    assert len(ns.pods("blocked")) == 3


def test_slow_answers_only_slow_things_down(ns: JobNamespace, proxy: FaultProxy) -> None:
    proxy.add("slow", seconds=0.2)
    ns.create_job("slowly")
    brought_up(ns, "slowly")


def test_a_deletion_in_a_gap_of_the_watch_is_noticed_by_the_resync(
    ns: JobNamespace, proxy: FaultProxy
) -> None:
    ns.create_job("gap", numNodes=1)
    brought_up(ns, "gap", nodes=1)
    wait_for("the watch of pods", lambda: proxy.watches(PODS_WATCH))
    assert proxy.deafen(PODS_WATCH) > 0
    ns.delete("pods", "gap-0-0")
    gone = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410}
    proxy.send(PODS_WATCH, {"type": "ERROR", "object": gone})
    ns.wait_pods("gap", "gap-1-0")
    assert ns.status("gap")["restarts"]["byClass"] == {"Infrastructure": 1}


@pytest.mark.parametrize(
    ("watch", "logged"),
    [
        (PODS_WATCH, "watch on pods closed, reconnecting in"),
        (JOBS_WATCH, "watch on aurltrainingjobs closed, reconnecting in"),
    ],
    ids=["pods", "jobs"],
)
def test_an_error_within_a_watch_does_not_end_the_operator(
    watch: str, logged: str, ns: JobNamespace, proxy: FaultProxy, operator: OperatorProcess
) -> None:
    wait_for("the watch", lambda: proxy.watches(watch))
    broken = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "etcd", "code": 500}
    proxy.send(watch, {"type": "ERROR", "object": broken})
    wait_for("the watch to end", lambda: logged in operator.log())
    ns.create_job("after")
    brought_up(ns, "after")


def test_an_error_in_one_namespace_leaves_one_watch_on_jobs_in_each(
    proxy: FaultProxy, tmp_path: Path
) -> None:
    """kopf ends with the first watch that fails and would leave those of other namespaces behind."""
    watches = [f"/namespaces/{name}{JOBS_WATCH}" for name in ("first", "second", "third")]

    def one_each() -> bool:
        return [proxy.watches(watch) for watch in watches] == [1, 1, 1]

    flags = ("--namespaces", "first,second,third")
    with OperatorProcess(proxy.kubeconfig, tmp_path / "log", *flags) as process:
        wait_for("the watches", one_each)
        broken = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "etcd", "code": 500}
        proxy.send(watches[0], {"type": "ERROR", "object": broken})
        wait_for("the watch to end", lambda: "watch on aurltrainingjobs closed" in process.log())
        wait_for("the watches", one_each)


def test_conformance_a_watch_that_is_silently_dead_is_noticed(
    ns: JobNamespace, proxy: FaultProxy, operator: OperatorProcess
) -> None:
    wait_for("the watch of pods", lambda: proxy.watches(PODS_WATCH))
    proxy.add("hang", containing=PODS_WATCH)
    proxy.deafen(PODS_WATCH)

    def reported() -> bool:
        code, text = operator.get("/healthz")
        return code == 503 and "The watch on pods is silent" in text

    wait_for("the health page to report it", reported)
    # The resync replaces the watch meanwhile, but slowly.
    ns.create_job("unwatched", numNodes=1)
    brought_up(ns, "unwatched", nodes=1)
    proxy.heal()
    proxy.cut()
    wait_for("the health page to recover", lambda: operator.get("/healthz") == (200, "ok"))
