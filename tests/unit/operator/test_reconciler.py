"""One reconciliation does everything that can be done now, as if no event ever followed.

A real API server gives no control over the order of answers and events, and usually some event follows.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, cast

import pytest

from aurl_operator import reconciler as reconciler_module
from aurl_operator.kube.client import ApiError, Client, Unreachable
from aurl_operator.kube.event_recorder import EventRecorder
from aurl_operator.kube.progress_poller import ProgressPoller
from aurl_operator.kube.store import Store
from aurl_operator.reconciler import Reconciler
from aurl_operator.serve.metrics import Metrics
from unit.operator.builders import OPTIONS, TRAINED, UID, Object, World, after, make_job, running


async def _no_fault(method: str, kind: str) -> None:
    return


class Server:
    """A fake API server that records the objects it creates."""

    def __init__(self, job: Object) -> None:
        self.job = job
        self.made: list[str] = []
        self.events: list[str] = []
        self.fault: Callable[[str, str], Awaitable[None]] = _no_fault
        self.pods: dict[str, Object] = {}
        self.claim_owners: list[Object] | None = None
        self._version = 100

    def clock_skew(self) -> timedelta:
        """Return no difference."""
        return timedelta()

    async def request(
        self, method: str, kind: str, namespace: str, name: str = "", *, body: Any = None, **_: Any
    ) -> Object:
        self._version += 1
        await self.fault(method, kind)
        if (method, kind) == ("PATCH", "Job"):
            status = {**self.job.get("status", {}), **body["status"]}
            self.job["status"] = {key: value for key, value in status.items() if value is not None}
            self.job["metadata"]["resourceVersion"] = str(self._version)
            return copy.deepcopy(self.job)
        if kind == "Event":
            self.events.append(body["reason"])
            return {}
        if method == "POST":
            made = copy.deepcopy(dict(body))
            made["metadata"] |= {"uid": f"made-{self._version}", "resourceVersion": str(self._version)}
            if kind == "Service":
                made["spec"]["clusterIP"] = "10.0.0.9"
            self.made.append(made["metadata"]["name"])
            return made
        if (method, kind) == ("GET", "PersistentVolumeClaim"):
            owners = [{"uid": UID}, {"uid": "another"}]
            metadata = {"name": name, "uid": "claim", "resourceVersion": "7", "ownerReferences": owners}
            return {"metadata": metadata, "status": {"phase": "Bound"}}
        if (method, kind) == ("PATCH", "PersistentVolumeClaim"):
            assert body["metadata"]["resourceVersion"] == "7"
            self.claim_owners = body["metadata"]["ownerReferences"]
            return {}
        if (method, kind) == ("DELETE", "Job"):
            return {}
        if (method, kind) == ("GET", "Pod") and name in self.pods:
            return copy.deepcopy(self.pods[name])
        raise ApiError(404, f"{method} {kind} {name}")


def reconciled(world: World) -> list[str]:
    """Return the names of the objects that one reconciliation creates, without any events from the server."""
    server = Server(world.job)
    reconcile(world, server)
    return server.made


def reconcile(world: World, server: Server) -> float | None:
    """Reconcile once; return the seconds until the next look."""

    async def scenario() -> float | None:
        store = Store()
        client = cast(Client, server)
        metrics = Metrics()
        poller = ProgressPoller(5.0, lambda key: None)
        reconciler = Reconciler(
            client, store, poller, EventRecorder(client), metrics, OPTIONS, lambda: world.now
        )
        key = store.put_job(world.job)
        assert key is not None
        for kind, obj in (
            ("ConfigMap", world.config_map),
            ("Service", world.service),
            ("NetworkPolicy", world.network_policy),
            ("PersistentVolumeClaim", world.claim),
            *(("Pod", pod) for pod in world.pods.values()),
        ):
            if obj is not None:
                store.put_child(cast(Any, kind), obj)
        wake = await reconciler.reconcile(key)
        await poller.close()
        return wake

    return asyncio.run(scenario())


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_gang_that_has_vanished_is_replaced_immediately(nodes: int) -> None:
    world = running(make_job(numNodes=nodes))
    for index in range(nodes):
        del world.pods[f"bach-0-{index}"]
    assert reconciled(world) == [f"bach-1-{index}" for index in range(nodes)]


def test_a_new_job_gets_everything_it_needs() -> None:
    made = reconciled(World(make_job()))
    assert set(made) >= {"bach-config", "bach-rdzv", "bach-prepare-0"}
    assert made[-1] == "bach-prepare-0"


@pytest.mark.parametrize(
    "error",
    [
        ApiError(500, 'failed calling webhook "x": connection refused'),
        ApiError(429, "too many requests", 3.0),
        ApiError(404, 'namespaces "music" not found'),
        ApiError(403, "denied"),
        Unreachable("POST /pods: TimeoutError"),
    ],
    ids=["500", "429", "404", "403", "no answer"],
)
@pytest.mark.parametrize("kind", ["ConfigMap", "PersistentVolumeClaim", "Pod"])
def test_the_status_is_written_in_spite_of_a_refusal(kind: str, error: Exception) -> None:
    world = World(make_job())
    server = Server(world.job)

    async def refuse(method: str, requested: str) -> None:
        if (method, requested) == ("POST", kind):
            raise error

    server.fault = refuse
    wake = reconcile(world, server)
    assert wake is not None and 0 < wake <= 30
    assert world.status["state"] == "Pending"
    assert world.condition("Stalled")[0] == "True"
    assert (getattr(error, "message", "") or str(error)) in world.message("Stalled")


def test_the_status_is_written_while_the_server_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler_module, "REPORT_AFTER_SECONDS", 0.01)
    world = World(make_job())
    server = Server(world.job)
    states = []

    async def hang(method: str, kind: str) -> None:
        if (method, kind) == ("POST", "Pod"):
            await asyncio.sleep(0.3)
            states.append(world.status.get("state"))
            raise ApiError(500, 'failed calling webhook "x": context deadline exceeded')

    server.fault = hang
    reconcile(world, server)
    assert states == ["Pending"]
    assert "context deadline exceeded" in world.message("Stalled")


@pytest.mark.parametrize("uid", ["same", "another", None])
def test_a_conflict_hides_only_a_pod_that_is_gone(uid: str | None) -> None:
    """A 409 to a deletion has other causes than the precondition, such as a concurrent update."""
    world = running()
    server = Server(world.job)
    pods = [copy.deepcopy(pod) for pod in world.pods.values()]
    if uid is not None:
        server.pods = {pod["metadata"]["name"]: pod for pod in pods}
    if uid == "another":
        for pod in pods:
            pod["metadata"]["uid"] += "-new"
    world.fail("bach-0-0", 3)

    async def conflict(method: str, kind: str) -> None:
        if (method, kind) == ("DELETE", "Pod"):
            raise ApiError(409, "the object has been modified")

    server.fault = conflict
    reconcile(world, server)
    assert world.status["attempt"] == 1
    if uid == "same":
        assert server.made == []
        assert world.condition("Stalled") == ("True", "DeleteFailed")
    else:
        assert server.made == ["bach-1-0", "bach-1-1"]


@pytest.mark.parametrize(
    ("policy", "refused", "requests"),
    [
        (
            "Retain",
            False,
            [("GET", "PersistentVolumeClaim"), ("PATCH", "PersistentVolumeClaim"), ("DELETE", "Job")],
        ),
        ("Retain", True, [("GET", "PersistentVolumeClaim"), ("PATCH", "PersistentVolumeClaim")]),
        ("Delete", False, [("DELETE", "Job")]),
    ],
)
def test_a_job_that_expires_leaves_its_claim(policy: str, refused: bool, requests: list[Any]) -> None:
    world = running(make_job(runPolicy={"ttlSecondsAfterFinished": 60, "cleanClaimPolicy": policy}))
    for name in list(world.pods):
        if "-prepare-" not in name:
            world.succeed(name, TRAINED)
    world.settle()
    world.now = after(61)
    server = Server(world.job)
    seen: list[tuple[str, str]] = []

    async def record(method: str, kind: str) -> None:
        seen.append((method, kind))
        if refused and (method, kind) == ("PATCH", "PersistentVolumeClaim"):
            raise ApiError(403, "cannot patch resource")

    server.fault = record
    wake = reconcile(world, server)
    assert seen == requests
    if refused:
        assert wake is not None and wake > 0
    else:
        assert server.claim_owners == ([{"uid": "another"}] if policy == "Retain" else None)


def test_a_recovered_server_gets_all_requests_in_one_reconciliation() -> None:
    world = running(make_job(numNodes=4))
    for index in range(4):
        del world.pods[f"bach-0-{index}"]
    server = Server(world.job)
    failures = [ApiError(500, "webhook")] * 4

    async def fail_at_first(method: str, kind: str) -> None:
        if (method, kind) == ("POST", "Pod") and failures:
            if len(failures) == 1:
                world.now += timedelta(seconds=1.1)  # the back-off of all has passed
            raise failures.pop()

    server.fault = fail_at_first
    reconcile(world, server)
    assert sorted(server.made) == [f"bach-1-{index}" for index in range(4)]
