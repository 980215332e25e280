"""Jobs for the operator benchmark on an API server without nodes: created, started and run by the hundred."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from aurl_dev.bench.apiclient import ApiClient, PodWatch, until
from aurl_dev.kube import GROUP, VERSION, Object, jobs_path
from aurl_dev.operator_process import OperatorProcess
from aurl_operator.api.base import format_time
from aurl_operator.core.objects import dataset_hash
from aurl_operator.core.validation import parse_spec

SPEC: Final[Object] = {
    "numNodes": 2,
    "storage": {"claimName": "music"},
    "dataset": {"source": {"music21Corpus": {"collection": "chorales"}}},
    "training": {"steps": 1000},
}


@dataclass
class Workload:
    """One API server with the Job controller and the operator."""

    client: ApiClient
    operator: OperatorProcess

    @asynccontextmanager
    async def namespace(self, name: str) -> AsyncIterator[PodWatch]:
        """Create a namespace that can take pods, and watch its pods."""
        await self.client.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        await until("the default service account", lambda: self.client.request("GET", account))
        claim = {
            "metadata": {"name": "music"},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
        }
        await self.client.request("POST", f"/api/v1/namespaces/{name}/persistentvolumeclaims", claim)
        async with PodWatch(self.client, name) as pods:
            yield pods

    async def clear(self, namespace: str) -> None:
        """Delete a namespace's jobs of both kinds and wait until no pod is left."""
        for path in (jobs_path(namespace), f"/apis/batch/v1/namespaces/{namespace}/jobs"):
            await self.client.request("DELETE", path, {"propagationPolicy": "Background"})

        async def empty() -> bool:
            pods = await self.client.request("GET", f"/api/v1/namespaces/{namespace}/pods?limit=1")
            return not pods["items"]

        await until("the pods to be deleted", empty, seconds=300)

    async def prepare(self, namespace: str, names: list[str]) -> None:
        """Create suspended jobs whose dataset counts as prepared."""
        typed, problems = parse_spec(SPEC | {"suspend": True})
        assert typed is not None, problems
        dataset = {"fingerprint": "f00d", "path": "x", "files": 12, "specHash": dataset_hash(typed)}
        await asyncio.gather(*(self._prepare(jobs_path(namespace), name, dataset) for name in names))
        await self.settle()

    async def _prepare(self, path: str, name: str, dataset: Object) -> None:
        await self.client.request("POST", path, _job(name, suspend=True))

        async def suspended() -> list[Object] | None:
            status = (await self.client.request("GET", f"{path}/{name}")).get("status", {})
            return status["conditions"] if status.get("state") == "Suspended" else None

        conditions = await until(f"job {name} to be suspended", suspended, every=0.2)
        ready = {
            "type": "DatasetReady",
            "status": "True",
            "reason": "Prepared",
            "message": "12 files.",
            "lastTransitionTime": format_time(datetime.now(UTC)),
        }
        others = [one for one in conditions if one["type"] != ready["type"]]
        body = {"status": {"dataset": dataset, "conditions": [*others, ready]}}
        await self.client.request("PATCH", f"{path}/{name}/status", body)

    async def create(self, namespace: str, name: str) -> None:
        """Create a job that starts with its preparation."""
        await self.client.request("POST", jobs_path(namespace), _job(name))

    async def start(self, namespace: str, name: str) -> None:
        """Lift the suspension of a job."""
        await self.client.request("PATCH", f"{jobs_path(namespace)}/{name}", {"spec": {"suspend": False}})

    async def create_batch_job(self, namespace: str, name: str) -> None:
        """Give the Job controller a job of two pods."""
        container = {"name": "main", "image": "none"}
        pod = {"restartPolicy": "Never", "containers": [container]}
        body = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name},
            "spec": {"parallelism": 2, "completions": 2, "template": {"spec": pod}},
        }
        await self.client.request("POST", f"/apis/batch/v1/namespaces/{namespace}/jobs", body)

    async def run_pod(self, namespace: str, name: str, ip: str) -> None:
        """Report a pod as running at an address, as its kubelet would."""
        container = {
            "name": "trainer",
            "image": "x",
            "imageID": "x",
            "ready": True,
            "restartCount": 0,
            "state": {"running": {"startedAt": format_time(datetime.now(UTC))}},
        }
        status = {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "containerStatuses": [container],
        }
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/status"
        await self.client.request("PATCH", path, {"status": status})

    async def settle(self) -> None:
        """Wait until the operator's queue has been empty for a second."""
        calm = 0
        while calm < 5:
            oldest = await asyncio.to_thread(self.operator.metric, "aurl_operator_queue_oldest_seconds")
            calm = calm + 1 if oldest < 0.05 else 0
            await asyncio.sleep(0.2)

    async def jobs(self) -> int:
        """Return how many jobs the operator counts."""
        page = await asyncio.to_thread(self.operator.metrics)
        return int(sum(value for (name, _), value in page.items() if name == "aurl_operator_jobs"))


def _job(name: str, **spec: Any) -> Object:
    kind = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "AurlTrainingJob"}
    return {**kind, "metadata": {"name": name}, "spec": SPEC | spec}
