"""A namespace on a real API server, where the test acts as user, scheduler and kubelet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aurl_dev.jobs import changed
from aurl_dev.kube import ApiError, Kube, Object, condition
from aurl_dev.waiting import wait_for

SECONDS = 30.0
JOB: Object = {
    "apiVersion": "aurl.ai/v1alpha1",
    "kind": "AurlTrainingJob",
    "metadata": {},
    "spec": {
        "numNodes": 2,
        "storage": {"claimTemplate": {"size": "1Gi"}},
        "dataset": {"source": {"music21Corpus": {"collection": "chorales"}}},
        "training": {"steps": 400},
    },
}
PREPARED: Object = {
    "state": "Succeeded",
    "dataset": {
        "fingerprint": "f00d",
        "path": "x/dataset/f00d",
        "files": 12,
        "dropped": 1,
        "droppedNames": ["a.mid"],
    },
}
TRAINED: Object = {
    "state": "Succeeded",
    "step": 400,
    "totalSteps": 400,
    "loss": 1.25,
    "lastCheckpoint": {"step": 400, "path": "x/checkpoints/step-00000400", "time": "2026-01-01T00:00:00Z"},
}


def environment(pod: dict[str, Any]) -> dict[str, Any]:
    """Return the literal environment of a pod's container."""
    return {e["name"]: e.get("value") for e in pod["spec"]["containers"][0]["env"]}


class JobNamespace:
    """One namespace with its jobs."""

    def __init__(self, api: Kube, namespace: str) -> None:
        self.api, self.namespace = api, namespace
        self._core = f"/api/v1/namespaces/{namespace}"
        self._networking = f"/apis/networking.k8s.io/v1/namespaces/{namespace}"
        self._jobs = f"/apis/aurl.ai/v1alpha1/namespaces/{namespace}/aurltrainingjobs"

    # ---------------------------------------------------------------- the user

    def create_job(self, name: str, **changes: Any) -> Object:
        """Create a job, with changes to its spec as `changed` takes them."""
        metadata = {"name": name, "namespace": self.namespace}
        job = changed({**JOB, "metadata": metadata}, **changes)
        return self.api.request("POST", self._jobs, job)

    def patch_job(self, name: str, spec: Object) -> None:
        """Merge-patch the specification."""
        self.api.request("PATCH", f"{self._jobs}/{name}", {"spec": spec})

    def delete_job(self, name: str) -> None:
        """Delete a job as kubectl does."""
        self.api.delete(f"{self._jobs}/{name}")

    def hold_job(self, name: str, hold: bool = True) -> None:
        """Add a finalizer that keeps a deleted job, or remove it."""
        finalizers = ["test.aurl.ai/hold"] if hold else []
        self.api.request("PATCH", f"{self._jobs}/{name}", {"metadata": {"finalizers": finalizers}})

    def job(self, name: str) -> Object:
        """Return the job."""
        return self.api.get(f"{self._jobs}/{name}")

    def status(self, name: str) -> Object:
        """Return the job's status; empty if it has none."""
        return dict(self.job(name).get("status") or {})

    def condition(self, name: str, kind: str) -> Object:
        """Return one condition of a job; empty if it has none."""
        return condition(self.job(name), kind)

    def state(self, name: str, state: str, seconds: float = SECONDS) -> Object:
        """Wait until the job is in a state; return its status."""

        def look() -> Object | None:
            status = self.status(name)
            return status if status.get("state") == state else None

        return wait_for(f"state {state} of job {name}", look, seconds)

    def failure(self, name: str, seconds: float = SECONDS) -> Object:
        """Wait until the job has failed; return the last failure."""
        return wait_for(f"a failure of job {name}", lambda: self.status(name).get("lastFailure"), seconds)

    def gone(self, name: str, seconds: float = SECONDS) -> None:
        """Wait until all objects of a job are deleted."""
        wait_for(f"everything of job {name} to be gone", lambda: not self.children(name), seconds)

    def stalled(self, name: str, reason: str, seconds: float = SECONDS) -> Object:
        """Wait until the job is stalled for a reason; return the condition."""

        def look() -> Object | None:
            found = self.condition(name, "Stalled")
            return found if found.get("status") == "True" and found.get("reason") == reason else None

        return wait_for(f"job {name} to be stalled by {reason}", look, seconds)

    def events(self, name: str) -> list[Object]:
        """Return the events about a job."""
        return self.api.events(self.namespace, name)

    def event(self, name: str, reason: str, seconds: float = SECONDS) -> Object:
        """Wait for an event about a job and return it."""
        return wait_for(
            f"event {reason} of job {name}",
            lambda: next((e for e in self.events(name) if e["reason"] == reason), None) or {},
            seconds,
        )

    # ---------------------------------------------------------------- objects

    def objects(self, plural: str) -> list[Object]:
        """Return all objects of a built-in kind in the namespace."""
        return list(self.api.get(f"{self._of(plural)}/{plural}")["items"])

    def create(self, plural: str, body: Object) -> Object:
        """Create an object of a core kind."""
        return self.api.request("POST", f"{self._core}/{plural}", body)

    def delete(self, plural: str, name: str) -> None:
        """Delete an object of a built-in kind."""
        self.api.delete(f"{self._of(plural)}/{plural}/{name}")

    def _of(self, plural: str) -> str:
        return self._networking if plural == "networkpolicies" else self._core

    def children(self, name: str) -> list[str]:
        """Return kind and name of every object that belongs to a job."""
        found = []
        for plural in ("pods", "services", "configmaps", "networkpolicies", "persistentvolumeclaims"):
            for obj in self.objects(plural):
                if (obj["metadata"].get("labels") or {}).get("aurl.ai/job-name") == name:
                    found.append(f"{plural}/{obj['metadata']['name']}")
        return sorted(found)

    def pods(self, name: str) -> dict[str, Object]:
        """Return the pods of a job by name."""
        return {pod["metadata"]["name"]: pod for pod in self.api.pods(self.namespace, name)}

    def wait_pods(self, job: str, *names: str) -> dict[str, Object]:
        """Wait until a job has exactly these pods, not counting a prepare pod that succeeded."""

        def look() -> dict[str, Object] | None:
            pods = self.pods(job)
            alive = {
                n
                for n, p in pods.items()
                if not ("-prepare-" in n and p["status"].get("phase") == "Succeeded")
            }
            return pods if alive == set(names) else None

        return wait_for(f"pods {names} of job {job}", look)

    # ---------------------------------------------------------------- scheduler and kubelet

    def bind(self, pod: str, node: str = "node-1") -> None:
        """Bind a pod to a node that does not exist; its deletion then waits for `confirm_gone`."""
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        self.api.request("POST", f"{self._core}/pods/{pod}/binding", binding)

    def run(self, pod: str, ip: str = "127.0.0.1") -> None:
        """Report a running container."""
        running = {"startedAt": _now()}
        self._status(pod, "Running", {"running": running}, podIP=ip, podIPs=[{"ip": ip}])

    def succeed(self, pod: str, report: Mapping[str, Any], sidecar: bool = False) -> None:
        """Report a trainer that succeeded with a termination message; a sidecar may keep its pod running."""
        ended = {"exitCode": 0, "reason": "Completed", "finishedAt": _now(), "message": json.dumps(report)}
        self._status(pod, "Succeeded", {"terminated": ended}, sidecar)

    def fail(
        self,
        pod: str,
        exit_code: int,
        report: Mapping[str, Any] | None = None,
        reason: str = "Error",
        sidecar: bool = False,
    ) -> None:
        """Report a trainer that failed; a sidecar may keep its pod running."""
        ended: Object = {"exitCode": exit_code, "reason": reason, "finishedAt": _now()}
        if report is not None:
            ended["message"] = json.dumps(report)
        self._status(pod, "Failed", {"terminated": ended}, sidecar)

    def cannot_start(self, pod: str, reason: str, message: str) -> None:
        """Report a waiting container with its reason."""
        self._status(pod, "Pending", {"waiting": {"reason": reason, "message": message}})

    def unschedulable(self, pod: str, message: str) -> None:
        """Report that the scheduler found no node."""
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": _now(),
        }
        path = f"{self._core}/pods/{pod}/status"
        self.api.request("PATCH", path, {"status": {"phase": "Pending", "conditions": [condition]}})

    def confirm_gone(self, pod: str) -> None:
        """Report that a deleted pod has terminated."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
        self.api.request("DELETE", f"{self._core}/pods/{pod}", body)

    def _status(self, pod: str, phase: str, state: Object, sidecar: bool = False, **more: Any) -> None:
        container = {
            "name": "trainer",
            "image": "x",
            "imageID": "x",
            "ready": phase == "Running",
            "restartCount": 0,
            "state": state,
        }
        status = {"phase": phase, "containerStatuses": [container], **more}
        if sidecar:
            proxy = {**container, "name": "proxy", "ready": True, "state": {"running": {"startedAt": _now()}}}
            status |= {"phase": "Running", "containerStatuses": [proxy, container]}
        try:
            self.api.request("PATCH", f"{self._core}/pods/{pod}/status", {"status": status})
        except ApiError as error:
            raise AssertionError(f"pod {pod} cannot become {phase}: {error}") from error

    # ---------------------------------------------------------------- whole phases

    def prepare(self, job: str, attempt: int = 0) -> None:
        """Run the prepare pod until it succeeds."""
        name = f"{job}-prepare-{attempt}"
        self.wait_pods(job, name)
        self.run(name)
        self.succeed(name, PREPARED)

    def train(self, job: str, attempt: int = 0, nodes: int = 2) -> list[str]:
        """Run all workers of an attempt; return their names."""
        names = [f"{job}-{attempt}-{index}" for index in range(nodes)]
        self.wait_pods(job, *names)
        for name in names:
            self.run(name)
        self.state(job, "Running")
        return names


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
