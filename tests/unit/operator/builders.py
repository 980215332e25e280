"""Builds jobs, pods and launcher reports as the API server would return them, for tests of plan()."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from aurl_operator.api.base import format_time
from aurl_operator.core.actions import Create, Delete, Kind, Plan
from aurl_operator.core.observed import Observed, Options
from aurl_operator.core.plan import plan
from aurl_operator.core.progress import ProgressReport
from aurl_operator.core.views import object_view
from aurl_operator.kube.store import Store

Object = dict[str, Any]
NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
NODES = ("bach-0-0", "bach-0-1")
"""The workers of the first attempt."""
OPTIONS = Options(image="trainer:test", check_config=lambda dataset, training: ())
UID = "11111111-2222-3333-4444-555555555555"
SPEC: Object = {
    "numNodes": 2,
    "storage": {"claimTemplate": {"size": "1Gi"}},
    "dataset": {"source": "bach"},
    "training": {"steps": 400},
}
PREPARED: Object = {
    "state": "Succeeded",
    "dataset": {"fingerprint": "f00d", "files": 12, "dropped": 2, "droppedNames": ["a.mid", "b.mid"]},
}
TRAINED: Object = {"state": "Succeeded", "step": 400, "totalSteps": 400, "loss": 1.25}


def after(seconds: float) -> datetime:
    """Return the time this many seconds after NOW."""
    return NOW + timedelta(seconds=seconds)


def make_job(name: str = "bach", **spec: Any) -> Object:
    """Return a job; `spec` replaces top-level fields of SPEC, None removes them."""
    merged = {**copy.deepcopy(SPEC), **spec}
    return {
        "metadata": {
            "name": name,
            "namespace": "music",
            "uid": UID,
            "generation": 1,
            "resourceVersion": "1",
            "creationTimestamp": format_time(NOW),
        },
        "spec": {key: value for key, value in merged.items() if value is not None},
    }


def observe(
    job: Object,
    owned: Iterable[tuple[Kind, Object | None]],
    report: ProgressReport | None,
    now: datetime,
    options: Options,
    claim: Object | None = None,
    named_claim: Object | None = None,
) -> Observed | None:
    """Return what plan() observes of raw objects, or None if the store refuses the job."""
    store = Store()
    key = store.put_job(job)
    for kind, obj in owned:
        if obj is not None:
            store.put_child(kind, obj)
    view = store.job(key) if key else None
    if view is None:
        return None
    children = replace(
        store.children(view.ref.uid),
        claim=object_view(claim) if claim is not None else None,
        named_claim=object_view(named_claim) if named_claim is not None else None,
    )
    return Observed(view, children, report, now, options)


class World:
    """One job and its children; plan()'s actions change them as an API server would.

    With `sidecars`, an admission webhook has added a container to each pod, which runs until its deletion.
    """

    def __init__(self, job: Object | None = None, options: Options = OPTIONS) -> None:
        self.job = job or make_job()
        self.options = options
        self.pods: dict[str, Object] = {}
        self.service: Object | None = None
        self.config_map: Object | None = None
        self.network_policy: Object | None = None
        self.pod_groups: dict[str, Object] = {}
        self.claim: Object | None = None
        self.named_claim: Object | None = None
        self.refusals: dict[str, Any] = {}
        self.report: ProgressReport | None = None
        self.sidecars = False
        self.now = NOW
        self.clock_skew = timedelta()
        self.last = Plan()
        self.events: list[str] = []
        self._uids = 0

    def look(self) -> Plan:
        """Call plan() without applying the result."""
        owned: list[tuple[Kind, Object | None]] = [
            ("Service", self.service),
            ("ConfigMap", self.config_map),
            ("NetworkPolicy", self.network_policy),
            *(("Pod", pod) for pod in self.pods.values()),
            *(("PodGroup.scheduling.volcano.sh", group) for group in self.pod_groups.values()),
        ]
        observed = observe(self.job, owned, self.report, self.now, self.options, self.claim, self.named_claim)
        if observed is None:
            return Plan()
        return plan(replace(observed, refusals=self.refusals, clock_skew=self.clock_skew))

    def step(self) -> Plan:
        """Call plan() once and apply the result."""
        decided = self.last = self.look()
        if decided.status is not None:
            self.job["status"] = decided.status.model_dump(mode="json", by_alias=True, exclude_none=True)
            self.events += [event.reason for event in decided.events]
        for action in decided.actions:
            self.carry_out(action)
        return decided

    def settle(self) -> Object:
        """Call plan() until nothing is left to do now, and return the status."""
        for _ in range(12):
            before = json.dumps(self.job.get("status"))
            if not self.step().actions and json.dumps(self.job.get("status")) == before:
                return self.status
        raise AssertionError(f"plan() never settles: {self.last}")

    def carry_out(self, action: object) -> None:
        """Apply one action; creating a pod that exists is an error here."""
        match action:
            case Create(kind="Pod", manifest=manifest):
                name = manifest["metadata"]["name"]
                assert name not in self.pods, f"{name} exists already"
                self.pods[name] = self._stored(manifest) | {"status": {"phase": "Pending"}}
            case Create(kind="Service", manifest=manifest):
                self.service = self._stored(manifest)
                self.service["spec"]["clusterIP"] = "10.96.0.7"
            case Create(kind="ConfigMap", manifest=manifest):
                self.config_map = self._stored(manifest)
            case Create(kind="NetworkPolicy", manifest=manifest):
                self.network_policy = self._stored(manifest)
            case Create(kind="PersistentVolumeClaim", manifest=manifest):
                self.claim = self._stored(manifest)
            case Delete(kind="Pod", name=name, uid=uid, force=force):
                self._delete_pod(name, uid, force)
            case Create(kind=kind, name=name, manifest=manifest) if kind.startswith("PodGroup"):
                self.pod_groups[name] = self._stored(manifest)
            case Delete(kind=kind, name=name) if kind.startswith("PodGroup"):
                self.pod_groups.pop(name, None)
            case Delete(kind="Service"):
                self.service = None
            case _:
                self._carry_out_rare(action)

    def _carry_out_rare(self, action: Any) -> None:
        if type(action).__name__ == "Patch":
            assert self.config_map is not None
            self.config_map["data"] |= action.patch["data"]
        else:
            assert type(action).__name__ == "DeleteJob"
            self.job["metadata"]["deletionTimestamp"] = format_time(self.now)

    def _stored(self, manifest: Mapping[str, Any]) -> Object:
        self._uids += 1
        stored: Object = copy.deepcopy(dict(manifest))
        stored["metadata"]["uid"] = f"uid-{self._uids}"
        stored["metadata"]["creationTimestamp"] = format_time(self.now)
        return stored

    def _delete_pod(self, name: str, uid: str, force: bool) -> None:
        pod = self.pods.get(name)
        if pod is None or pod["metadata"]["uid"] != uid:
            return
        if force or pod["status"]["phase"] in ("Succeeded", "Failed"):
            del self.pods[name]
        elif "deletionTimestamp" not in pod["metadata"]:
            self.ask_to_leave(name)

    # ---------------------------------------------------------------- events in the life of pods

    def ask_to_leave(self, name: str, grace: int = 60) -> None:
        """A user deletes the pod; its containers are still terminating."""
        metadata = self.pods[name]["metadata"]
        metadata["deletionTimestamp"] = format_time(self.now + timedelta(seconds=grace))
        metadata["deletionGracePeriodSeconds"] = grace

    def place(self, **nodes: str) -> None:
        """The scheduler assigns nodes to pods; underscores in the names stand for dashes."""
        for name, node in nodes.items():
            self.pods[name.replace("_", "-")].setdefault("spec", {})["nodeName"] = node

    def all_pods_end(self) -> None:
        """Every pod that is being deleted is gone."""
        self.pods = {n: p for n, p in self.pods.items() if "deletionTimestamp" not in p["metadata"]}

    def run(self, *names: str) -> None:
        """The containers are running."""
        for name in names:
            self.pods[name]["spec"].setdefault("nodeName", "node-1")
            self.pods[name]["status"] = {"phase": "Running", "podIP": "10.0.0.1"}

    def succeed(self, name: str, report: Mapping[str, Any]) -> None:
        """The container exits successfully."""
        self._end(name, "Succeeded", {"exitCode": 0, "message": json.dumps(report)})

    def fail(self, name: str, exit_code: int = 1, message: object = None, **state: Any) -> None:
        """The container fails; a message that is not a string is written as JSON."""
        ended: Object = {"exitCode": exit_code, "reason": "Error", **state}
        if message is not None:
            ended["message"] = message if isinstance(message, str) else json.dumps(message)
        self._end(name, "Failed", ended)

    def _end(self, name: str, phase: str, ended: Object) -> None:
        ended.setdefault("finishedAt", format_time(self.now))
        containers: list[Object] = [{"name": "trainer", "state": {"terminated": ended}}]
        if self.sidecars:
            containers.insert(0, {"name": "proxy", "ready": True, "state": {"running": {}}})
        phase = "Running" if self.sidecars else phase
        self.pods[name]["status"] = {"phase": phase, "containerStatuses": containers}

    def wait_for_reason(self, name: str, reason: str, message: str = "no such thing") -> None:
        """The kubelet cannot start the container."""
        waiting = {"reason": reason, "message": message}
        container = {"name": "trainer", "state": {"waiting": waiting}}
        self.pods[name]["status"] = {"phase": "Pending", "containerStatuses": [container]}

    def cannot_be_scheduled(self, name: str, since: datetime | None) -> None:
        """No node fits the pod."""
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "no room",
        }
        if since is not None:
            condition["lastTransitionTime"] = format_time(since)
        self.pods[name]["spec"].pop("nodeName", None)
        self.pods[name]["status"] = {"phase": "Pending", "conditions": [condition]}

    # ---------------------------------------------------------------- observations

    @property
    def status(self) -> Object:
        """The job's status."""
        return dict(self.job.get("status") or {})

    @property
    def state(self) -> str:
        """The job's state."""
        return str(self.status.get("state"))

    def condition(self, name: str) -> tuple[str, str]:
        """Return status and reason of a condition."""
        found = next(c for c in self.status["conditions"] if c["type"] == name)
        return found["status"], found["reason"]

    def message(self, name: str) -> str:
        """Return the message of a condition."""
        return str(next(c for c in self.status["conditions"] if c["type"] == name)["message"])


def work_phase(pod: Mapping[str, Any]) -> str:
    """Return the phase that a pod would have without its sidecar."""
    for container in pod["status"].get("containerStatuses", []):
        if container["name"] == "trainer" and "terminated" in container["state"]:
            return "Failed" if container["state"]["terminated"]["exitCode"] else "Succeeded"
    return str(pod["status"]["phase"])


def prepared(job: Object | None = None, sidecars: bool = False) -> World:
    """Return a world whose dataset is prepared and whose workers exist."""
    world = World(job)
    world.sidecars = sidecars
    world.settle()
    name = f"{world.job['metadata']['name']}-prepare-0"
    world.run(name)
    world.settle()
    world.succeed(name, PREPARED)
    world.settle()
    if sidecars:
        world.all_pods_end()
        world.settle()
    return world


def running(job: Object | None = None, sidecars: bool = False) -> World:
    """Return a world whose workers of attempt 0 are running."""
    world = prepared(job, sidecars)
    world.run(*(name for name in world.pods if "-prepare-" not in name))
    world.settle()
    assert world.state == "Running", world.status
    return world


def kinds(world: World) -> list[str]:
    """Return the kinds of the objects that the next plan creates."""
    return [a.kind for a in world.look().actions if isinstance(a, Create)]
