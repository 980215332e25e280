"""`make bench-operator`: the operator and the built-in Job controller, into build/bench/operator.json.

Both run against one real API server without a scheduler; one observer watches the pods of both.
The time measured is from sending the request that starts a job to the ADDED event of its second pod:

- Job controller: the POST of a batch/v1 Job with two pods; its client limits are lifted.
- Aurl: the PATCH that lifts `suspend` from an AurlTrainingJob of two nodes whose dataset is prepared. The
  operator then creates a ConfigMap, a Service, a NetworkPolicy and two pods. (A new job would first wait for
  its preparation, whose length has nothing to do with the operator; the time from the POST of a new job to
  that first pod is `post_to_first_pod`.)

The jobs then stay: `idle_1000` is what the operator uses while nothing happens to them, and `running_1000`
while all of them train and are polled for their progress. `recovery` runs on a real cluster.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aurl_dev import crd
from aurl_dev.bench import recovery, result
from aurl_dev.bench.apiclient import ApiClient, until
from aurl_dev.bench.process import Usage
from aurl_dev.bench.workload import Workload
from aurl_dev.cluster.api_server import ApiServer
from aurl_dev.kube import HTTP_PORT, Kube
from aurl_dev.operator_process import OperatorProcess

CONTROLLER_FLAGS: Final = ("--kube-api-qps=2000", "--kube-api-burst=4000")
PHASES: Final = ("single", "burst_200", "burst_1000", "idle_1000", "running_1000", "recovery")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """The extent of a run: share of the numbers of jobs, seconds per phase, repeats of a burst."""

    scale: float
    seconds: float
    repeats: int
    poll_seconds: int = 10

    def jobs(self, full: int) -> int:
        """Return the number of jobs of a phase that has `full` of them at full scale."""
        return max(int(full * self.scale), 1)


SMALLEST: Final = Size(scale=0.002, seconds=2, repeats=1, poll_seconds=1)


def percentile(values: Iterable[float], share: float) -> float:
    """Return the smallest value that at least this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def _milliseconds(seconds: list[float]) -> dict[str, float]:
    return {
        "p50_ms": round(1000 * percentile(seconds, 0.5), 1),
        "p99_ms": round(1000 * percentile(seconds, 0.99), 1),
    }


async def single(load: Workload, count: int, say: Say) -> dict[str, Any]:
    """Start jobs one after the other, ours and theirs in turn; milliseconds."""
    names = [f"job-{number}" for number in range(count)]
    ours, theirs, first = [], [], []
    async with load.namespace("single") as pods:
        await load.prepare("single", names)
        for number, name in enumerate(names):
            began = time.monotonic()
            await load.start("single", name)
            ours.append(await pods.pods_of(name, 2) - began)
            began = time.monotonic()
            await load.create_batch_job("single", f"batch-{name}")
            theirs.append(await pods.pods_of(f"batch-{name}", 2) - began)
            began = time.monotonic()
            await load.create("single", f"new-{name}")
            first.append(await pods.pods_of(f"new-{name}", 1) - began)
            if number % 10 == 9:
                say(f"single: {number + 1} of {count}")
    await load.clear("single")
    return {
        "jobs": count,
        **_milliseconds(ours),
        "post_to_first_pod": _milliseconds(first),
        "job_controller": _milliseconds(theirs),
    }


async def burst(load: Workload, count: int, repeats: int, say: Say, *, keep: bool = False) -> dict[str, Any]:
    """Start many jobs at the same time, ours and theirs in turn; seconds until all pods exist."""
    names = [f"job-{number}" for number in range(count)]
    ours: list[float] = []
    theirs: list[float] = []
    spent: list[float] = []
    for repeat in range(repeats):
        place = f"burst-{count}-{repeat}"
        async with load.namespace(place) as pods:
            await load.prepare(place, names)
            began, usage = time.monotonic(), Usage(load.operator.pid)
            await asyncio.gather(*(load.start(place, name) for name in names))
            ours.append(await pods.pods(2 * count) - began)
            spent.append(usage.cpu_seconds())
        if not (keep and repeat == repeats - 1):
            await load.clear(place)
        async with load.namespace(f"{place}-batch") as pods:
            began = time.monotonic()
            await asyncio.gather(*(load.create_batch_job(f"{place}-batch", name) for name in names))
            theirs.append(await pods.pods(2 * count) - began)
        await load.clear(f"{place}-batch")
        say(f"burst of {count}: {ours[-1]:.2f} s, Job controller {theirs[-1]:.2f} s")
    pairs = list(zip(ours, theirs, strict=True))
    return {
        "jobs": count,
        "seconds": round(statistics.median(ours), 3),
        "job_controller_seconds": round(statistics.median(theirs), 3),
        "ratio_to_job_controller": round(statistics.median(a / b for a, b in pairs), 3),
        "operator_cpu_ms_per_job": round(1000 * statistics.median(spent) / count, 2),
        "all_seconds": [[round(a, 3), round(b, 3)] for a, b in pairs],
    }


async def idle(load: Workload, seconds: float, say: Say) -> dict[str, Any]:
    """Measure what the operator uses while its jobs wait for pods that no scheduler places."""
    await load.settle()
    usage = Usage(load.operator.pid)
    say(f"idle: {seconds:.0f} s")
    await asyncio.sleep(seconds)
    return {"jobs": await load.jobs(), "seconds": seconds, **usage.report()}


async def running(load: Workload, namespace: str, size: Size, say: Say) -> dict[str, Any]:
    """Poll jobs that all train, while one new job starts per second."""
    pods = (await load.client.request("GET", f"/api/v1/namespaces/{namespace}/pods"))["items"]
    workers = [pod["metadata"]["name"] for pod in pods if "-prepare-" not in pod["metadata"]["name"]]
    jobs = len(workers) // 2
    first = ipaddress.ip_address("127.16.0.0")
    await asyncio.gather(
        *(load.run_pod(namespace, name, str(first + number)) for number, name in enumerate(workers))
    )

    async def all_run() -> bool:
        metric = load.operator.metric
        return await asyncio.to_thread(metric, "aurl_operator_jobs", state="Running") >= jobs

    await until("all jobs to run", all_run, seconds=120)
    say(f"running: {jobs} jobs, {size.seconds:.0f} s")
    await asyncio.sleep(2 * size.poll_seconds)  # until all have been polled
    delays = []
    names = [f"new-{number}" for number in range(int(size.seconds))]
    async with load.namespace("running") as watch:
        await load.prepare("running", names)
        usage = Usage(load.operator.pid)
        end = time.monotonic() + size.seconds
        for name in names:
            began = time.monotonic()
            await load.start("running", name)
            delays.append(await watch.pods_of(name, 2) - began)
            await asyncio.sleep(max(0.0, 1.0 - (time.monotonic() - began)))
        used = usage.report()
        assert time.monotonic() >= end - 1
    return {
        "jobs": jobs,
        "seconds": size.seconds,
        "poll_seconds": size.poll_seconds,
        **used,
        "new_job_to_pods": _milliseconds(delays),
    }


async def measure(load: Workload, wanted: list[str], size: Size, say: Say) -> dict[str, Any]:
    """Run the phases `wanted`, one after the other."""
    results: dict[str, Any] = {}
    if "single" in wanted:
        results["single"] = await single(load, size.jobs(100), say)
    if "burst_200" in wanted:
        results["burst_200"] = await burst(load, size.jobs(200), size.repeats, say)
    stays = {"idle_1000", "running_1000"} & set(wanted)
    if "burst_1000" in wanted or stays:
        # The jobs of the last repeat stay for the phases that follow.
        results["burst_1000"] = await burst(load, size.jobs(1000), 1, say, keep=bool(stays))
    if "idle_1000" in wanted:
        results["idle_1000"] = await idle(load, size.seconds, say)
    if "running_1000" in wanted:
        launchers = subprocess.Popen([sys.executable, "-m", "aurl_dev.bench.fakelauncher", str(HTTP_PORT)])
        try:
            results["running_1000"] = await running(load, f"burst-{size.jobs(1000)}-0", size, say)
        finally:
            launchers.kill()
            launchers.wait()
    return results


async def on_api_server(server: ApiServer, wanted: list[str], size: Size) -> dict[str, Any]:
    """Start the operator and run the phases that need no cluster."""
    crd.create(Kube(server.kubeconfig), crd.load())
    with tempfile.TemporaryDirectory() as place:
        flags = ("--progress-interval", str(size.poll_seconds))
        with OperatorProcess(server.kubeconfig, Path(place) / "log", *flags) as operator:
            async with ApiClient(server.kubeconfig) as client:
                results = await measure(Workload(client, operator), wanted, size, _say)
            return results | {"operator_start": {"seconds_to_ready": operator.seconds_to_ready}}


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    """Measure and write the result."""
    parser = result.parser("operator", __doc__)
    parser.add_argument("--only", choices=PHASES, action="append", help="one phase; may be repeated")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the numbers of jobs (default: 1)")
    parser.add_argument("--repeats", type=int, default=5, help="repeats of the burst of 200 (default: 5)")
    options = parser.parse_args()
    full = options.scale == 1
    size = SMALLEST if options.smallest else Size(options.scale, 60 if full else 20, options.repeats)
    wanted = options.only or list(PHASES)
    results = result.start(options) | {"scale": size.scale}
    if set(wanted) - {"recovery"}:
        with ApiServer(controller_flags=CONTROLLER_FLAGS, echo=_say) as server:
            results |= asyncio.run(on_api_server(server, wanted, size))
    if "recovery" in wanted:
        results["recovery"] = recovery.measure(1 if options.smallest else recovery.REPEATS, _say)
    result.show(results, options)


if __name__ == "__main__":
    main()
