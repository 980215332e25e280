"""`make bench-operator`: the operator beside the built-in Job controller, into build/bench/operator.json.

Both run against one real API server on which nothing schedules pods; one observer watches the pods of both.
What is timed is from sending the request that lets a job run to the ADDED event of its second pod:

- Job controller: the POST of a batch/v1 Job with two pods; its client limits are lifted.
- Aurl: the PATCH that lifts `suspend` from an AurlTrainingJob of two nodes whose dataset is prepared. It then
  makes a ConfigMap, a Service, a NetworkPolicy and two pods. (A new job would first wait for its preparation,
  whose length has nothing to do with the operator; how long a POST takes to that first pod is told as
  `post_to_first_pod`.)

Then the jobs stay: `idle_1000` is what the operator needs while nothing happens to them, and `running_1000`
while all of them train and are asked for their progress.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from aurl_dev import crd
from aurl_dev.bench import recovery, result
from aurl_dev.bench.apiclient import ApiClient, PodWatch
from aurl_dev.bench.memory import memory_mib
from aurl_dev.cluster.control_plane import ApiServer
from aurl_dev.kube import GROUP, VERSION, ApiError, Kube, jobs_path
from aurl_dev.operator_process import OperatorProcess
from aurl_operator.core.objects import dataset_hash
from aurl_operator.core.validation import parse_spec

CONTROLLER_FLAGS: Final = ("--kube-api-qps=2000", "--kube-api-burst=4000")
POLL_SECONDS: Final = 10
SPEC: Final[dict[str, Any]] = {
    "numNodes": 2,
    "storage": {"claimName": "music"},
    "dataset": {"source": {"music21Corpus": {"collection": "chorales"}}},
    "training": {"steps": 1000},
}
PHASES: Final = ("single", "burst_200", "burst_1000", "idle_1000", "running_1000", "recovery")
Say = Callable[[str], None]


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that so many of all are not above."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


@dataclass
class Cost:
    """What a process used over a stretch of time."""

    pid: int

    def __post_init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), self._cpu_seconds()

    def _cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def cpu_seconds(self) -> float:
        """Processor time since the beginning."""
        return self._cpu_seconds() - self._cpu

    def told(self) -> dict[str, float]:
        """Mean processor share since the beginning, and resident memory now."""
        share = (self._cpu_seconds() - self._cpu) / (time.monotonic() - self._wall)
        return {
            "cpu_percent": round(100 * share, 2),
            "rss_mib": round(memory_mib("VmRSS", self.pid), 1),
        }


@dataclass
class Bench:
    """One API server with the Job controller and the operator."""

    client: ApiClient
    operator: OperatorProcess
    say: Say

    # ---------------------------------------------------------------- places

    @asynccontextmanager
    async def namespace(self, name: str) -> AsyncIterator[PodWatch]:
        """A namespace that can take pods, and the watch of them."""
        await self.client.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        await _until(lambda: self.client.request("GET", f"/api/v1/namespaces/{name}/serviceaccounts/default"))
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

        await _until(empty, seconds=300)

    # ---------------------------------------------------------------- jobs

    async def prepared(self, namespace: str, names: list[str]) -> None:
        """Make suspended jobs whose dataset is known to be prepared."""
        path, spec = jobs_path(namespace), {**SPEC, "suspend": True}
        typed, problems = parse_spec(spec)
        assert typed is not None, problems
        dataset = {"fingerprint": "f00d", "path": "x", "files": 12, "specHash": dataset_hash(typed)}
        ready = {
            "type": "DatasetReady",
            "status": "True",
            "reason": "Prepared",
            "message": "12 files.",
            "lastTransitionTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

        async def make(name: str) -> None:
            await self.client.request("POST", path, {**_HEADER, "metadata": {"name": name}, "spec": spec})

            async def suspended() -> list[dict[str, Any]] | None:
                job = await self.client.request("GET", f"{path}/{name}")
                status = job.get("status", {})
                return status["conditions"] if status.get("state") == "Suspended" else None

            known = await _until(suspended, every=0.2)
            others = [one for one in known if one["type"] != "DatasetReady"]
            body = {"status": {"dataset": dataset, "conditions": [*others, ready]}}
            await self.client.request("PATCH", f"{path}/{name}/status", body)

        await asyncio.gather(*map(make, names))
        await self._at_rest()

    async def start(self, namespace: str, name: str) -> None:
        """Let a suspended job run."""
        await self.client.request("PATCH", f"{jobs_path(namespace)}/{name}", {"spec": {"suspend": False}})

    async def post_job(self, namespace: str, name: str) -> None:
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

    async def _at_rest(self) -> None:
        """Wait until the operator has kept up with all that there is to do for a moment."""
        calm = 0
        while calm < 5:
            oldest = await asyncio.to_thread(self.operator.metric, "aurl_operator_queue_oldest_seconds")
            calm = calm + 1 if oldest < 0.05 else 0
            await asyncio.sleep(0.2)

    # ---------------------------------------------------------------- phases

    async def single(self, count: int) -> dict[str, Any]:
        """Jobs one after the other, ours and theirs in turn; milliseconds."""
        names = [f"job-{number}" for number in range(count)]
        ours, theirs, first = [], [], []
        async with self.namespace("single") as pods:
            await self.prepared("single", names)
            for number, name in enumerate(names):
                began = time.monotonic()
                await self.start("single", name)
                ours.append(await pods.pods_of(name, 2) - began)
                began = time.monotonic()
                await self.post_job("single", f"batch-{name}")
                theirs.append(await pods.pods_of(f"batch-{name}", 2) - began)
                began = time.monotonic()
                body = {**_HEADER, "metadata": {"name": f"new-{name}"}, "spec": SPEC}
                await self.client.request("POST", jobs_path("single"), body)
                first.append(await pods.pods_of(f"new-{name}", 1) - began)
                if number % 10 == 9:
                    self.say(f"single: {number + 1} of {count}")
        await self.clear("single")
        return {
            "jobs": count,
            **_milliseconds(ours),
            "post_to_first_pod": _milliseconds(first),
            "job_controller": _milliseconds(theirs),
        }

    async def burst(self, count: int, repeats: int, keep: bool = False) -> dict[str, Any]:
        """Many jobs at once, ours and theirs in turn: seconds until all pods exist."""
        names = [f"job-{number}" for number in range(count)]
        ours: list[float] = []
        theirs: list[float] = []
        spent: list[float] = []
        for repeat in range(repeats):
            place = f"burst-{count}-{repeat}"
            async with self.namespace(place) as pods:
                await self.prepared(place, names)
                began, cost = time.monotonic(), Cost(self.operator.pid)
                await asyncio.gather(*(self.start(place, name) for name in names))
                ours.append(await pods.pods(2 * count) - began)
                spent.append(cost.cpu_seconds())
            if not (keep and repeat == repeats - 1):
                await self.clear(place)
            async with self.namespace(f"{place}-batch") as pods:
                began = time.monotonic()
                await asyncio.gather(*(self.post_job(f"{place}-batch", name) for name in names))
                theirs.append(await pods.pods(2 * count) - began)
            await self.clear(f"{place}-batch")
            self.say(f"burst of {count}: {ours[-1]:.2f} s, Job controller {theirs[-1]:.2f} s")
        return {
            "jobs": count,
            "seconds": round(statistics.median(ours), 3),
            "job_controller_seconds": round(statistics.median(theirs), 3),
            "ratio_to_job_controller": round(
                statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3
            ),
            "operator_cpu_ms_per_job": round(1000 * statistics.median(spent) / count, 2),
            "all_seconds": [[round(a, 3), round(b, 3)] for a, b in zip(ours, theirs, strict=True)],
        }

    async def idle(self, seconds: float) -> dict[str, Any]:
        """What the operator needs while its jobs wait for room that nobody gives."""
        await self._at_rest()
        cost = Cost(self.operator.pid)
        self.say(f"idle: {seconds:.0f} s")
        await asyncio.sleep(seconds)
        return {"jobs": int(await self._jobs()), "seconds": seconds, **cost.told()}

    async def running(self, namespace: str, seconds: float) -> dict[str, Any]:
        """All jobs train and are asked for their progress, and new ones come: one per second."""
        path = f"/api/v1/namespaces/{namespace}/pods"
        pods = (await self.client.request("GET", path))["items"]
        workers = [pod["metadata"]["name"] for pod in pods if "-prepare-" not in pod["metadata"]["name"]]
        first = ipaddress.ip_address("127.16.0.0")
        await asyncio.gather(
            *(self._run_pod(f"{path}/{name}", str(first + number)) for number, name in enumerate(workers))
        )

        async def all_run() -> bool:
            metric = self.operator.metric
            return await asyncio.to_thread(metric, "aurl_operator_jobs", state="Running") >= len(workers) // 2

        await _until(all_run, seconds=120)
        self.say(f"running: {len(workers) // 2} jobs, {seconds:.0f} s")
        await asyncio.sleep(2 * POLL_SECONDS)  # until all have been asked
        delays = []
        names = [f"new-{number}" for number in range(int(seconds))]
        async with self.namespace("running") as watch:
            await self.prepared("running", names)
            cost = Cost(self.operator.pid)
            end = time.monotonic() + seconds
            for name in names:
                began = time.monotonic()
                await self.start("running", name)
                delays.append(await watch.pods_of(name, 2) - began)
                await asyncio.sleep(max(0.0, 1.0 - (time.monotonic() - began)))
            told = cost.told()
            assert time.monotonic() >= end - 1
        return {
            "jobs": len(workers) // 2,
            "seconds": seconds,
            "poll_seconds": POLL_SECONDS,
            **told,
            "new_job_to_pods": _milliseconds(delays),
        }

    async def _run_pod(self, path: str, ip: str) -> None:
        container = {
            "name": "trainer",
            "image": "x",
            "imageID": "x",
            "ready": True,
            "restartCount": 0,
            "state": {"running": {"startedAt": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}},
        }
        status = {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "containerStatuses": [container],
        }
        await self.client.request("PATCH", f"{path}/status", {"status": status})

    async def _jobs(self) -> float:
        page = await asyncio.to_thread(self.operator.metrics)
        return sum(value for (name, _), value in page.items() if name == "aurl_operator_jobs")


_HEADER: Final = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "AurlTrainingJob"}


def _milliseconds(seconds: list[float]) -> dict[str, float]:
    return {
        "p50_ms": round(1000 * percentile(seconds, 0.5), 1),
        "p99_ms": round(1000 * percentile(seconds, 0.99), 1),
    }


async def _until(look: Callable[[], Awaitable[Any]], seconds: float = 60, every: float = 0.05) -> Any:
    """Ask until something true comes of it; a refusal is no answer yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found := await look():
                return found
        except ApiError:
            if time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s")
        await asyncio.sleep(every)


async def measure(
    server: ApiServer, operator: OperatorProcess, wanted: list[str], scale: float, repeats: int, say: Say
) -> dict[str, Any]:
    """Run the phases that are wanted, one after the other; `scale` shrinks the numbers of jobs."""
    results: dict[str, Any] = {}
    many, seconds = max(int(1000 * scale), 1), 60 if scale == 1 else 20
    async with ApiClient(server.kubeconfig) as client:
        bench = Bench(client, operator, say)
        if "single" in wanted:
            results["single"] = await bench.single(max(int(100 * scale), 1))
        if "burst_200" in wanted:
            results["burst_200"] = await bench.burst(max(int(200 * scale), 1), repeats)
        stays = {"idle_1000", "running_1000"} & set(wanted)
        if "burst_1000" in wanted or stays:
            # The jobs of the last repeat stay for the phases that follow.
            results["burst_1000"] = await bench.burst(many, 1, keep=bool(stays))
        if "idle_1000" in wanted:
            results["idle_1000"] = await bench.idle(seconds)
        if "running_1000" in wanted:
            launchers = subprocess.Popen([sys.executable, "-m", "aurl_dev.bench.fakelauncher", "9402"])
            try:
                results["running_1000"] = await bench.running(f"burst-{many}-0", seconds)
            finally:
                launchers.kill()
                launchers.wait()
    return results


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", choices=PHASES, action="append", default=[])
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the numbers of jobs; for a quick look"
    )
    parser.add_argument("--repeats", type=int, default=5, help="repeats of the burst of 200")
    options = parser.parse_args()
    wanted = options.only or list(PHASES)
    results: dict[str, Any] = {"machine": result.machine(), "scale": options.scale}

    def say(text: str) -> None:
        print(text, flush=True)

    if set(wanted) - {"recovery"}:
        with (
            ApiServer(controller_flags=CONTROLLER_FLAGS, echo=say) as server,
            tempfile.TemporaryDirectory() as place,
        ):
            crd.create(Kube(server.kubeconfig), crd.load())
            flags = ("--progress-interval", str(POLL_SECONDS))
            with OperatorProcess(server.kubeconfig, Path(place) / "log", *flags) as operator:
                results |= asyncio.run(measure(server, operator, wanted, options.scale, options.repeats, say))
                results["operator_start"] = {"seconds_to_ready": operator.seconds_to_ready}
    if "recovery" in wanted:
        results["recovery"] = recovery.measure(say)
    print(json.dumps({key: value for key, value in results.items() if key != "machine"}, indent=2))
    print(f"written to {result.write('operator', results)}")


if __name__ == "__main__":
    main()
