"""Time for a job on a real cluster to recover from a killed pod; part of `make bench-operator`."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

from aurl_dev.cluster import provider
from aurl_dev.demo import install
from aurl_dev.jobs import small
from aurl_dev.kube import Kube, Object
from aurl_dev.waiting import wait_for

NAMESPACE: Final = "bench-recovery"
REPEATS: Final = 3

#: Measured since the kill: old pods are gone; those of the next attempt exist, run, have made a step.
MARKS: Final = ("old_pods_gone", "pods_created", "pods_running", "next_step")


def measure(repeats: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Bring up a cluster with the operator, measure there, and delete it."""
    cluster = provider.ensure(os.environ.get("AURL_BENCH_CLUSTER") or "bench", say)
    try:
        install.install(cluster, say)
        kube = Kube(cluster.kubeconfig, retries=3)
        kube.ensure_namespace(NAMESPACE)
        return measure_on(kube, NAMESPACE, repeats, say)
    finally:
        cluster.down()


def measure_on(kube: Kube, namespace: str, repeats: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Kill a worker of a job `repeats` times; medians in seconds since the kill.

    A job of one node has no survivors: it shows what a new pod takes by itself.
    """
    two, one = (_strikes(kube, namespace, nodes, repeats, say) for nodes in (2, 1))
    return {
        "repeats": repeats,
        "killed_to_pods_created_seconds": two["pods_created"],
        "killed_to_next_step_seconds": two["next_step"],
        "two_nodes": two,
        "one_node": one,
    }


def _strikes(
    kube: Kube, namespace: str, nodes: int, repeats: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Kill the last node of a job `repeats` times; medians by mark, and all measurements."""
    job = f"struck-{nodes}"
    changes = {"training__steps": 100_000, "runPolicy__backoffLimit": 2 * repeats}
    kube.apply(namespace, small(job, numNodes=nodes, **changes))
    found = []
    for attempt in range(repeats):
        marks = _strike(kube, namespace, job, attempt, nodes)
        said = ", ".join(f"{mark} {marks[mark]:.2f} s" for mark in MARKS)
        say(f"recovery {attempt + 1} of {repeats}, {nodes} node(s): {said}")
        found.append(marks)
    kube.delete_job(namespace, job)
    medians = {mark: round(statistics.median(marks[mark] for marks in found), 2) for mark in MARKS}
    return medians | {"all": [[round(marks[mark], 2) for mark in MARKS] for marks in found]}


def _strike(kube: Kube, namespace: str, job: str, attempt: int, nodes: int) -> dict[str, float]:
    """Kill a pod once the attempt is past a checkpoint; return the seconds to each mark."""

    def past_a_checkpoint() -> bool:
        progress = kube.progress(namespace, f"{job}-{attempt}-0") or {}
        saved = (progress.get("lastCheckpoint") or {}).get("step", 0)
        return bool(saved > progress.get("startStep", 0) and progress.get("step", 0) > saved)

    wait_for("the job to be past a checkpoint", past_a_checkpoint, 300, every=0.25)
    began = time.monotonic()
    victim = f"{job}-{attempt}-{nodes - 1}"
    kube.kubectl(
        *("-n", namespace, "delete", "pod", victim, "--grace-period=0", "--force"),
        "--wait=false",
    )
    marks: dict[str, float] = {}

    def workers(number: int) -> list[Object]:
        pods = kube.pods(namespace, job, "worker")
        return [pod for pod in pods if pod["metadata"]["labels"]["aurl.ai/attempt"] == str(number)]

    def mark(name: str, reached: Callable[[], bool], every: float) -> None:
        wait_for(f"{name} of job {job}", reached, 120, every)
        marks[name] = time.monotonic() - began

    def running() -> bool:
        return all(pod["status"].get("phase") == "Running" for pod in workers(attempt + 1))

    def steps() -> bool:
        progress = kube.progress(namespace, f"{job}-{attempt + 1}-0") or {}
        return bool(progress.get("startStep") is not None and progress["step"] > progress["startStep"])

    mark("old_pods_gone", lambda: not workers(attempt), 0.02)
    mark("pods_created", lambda: len(workers(attempt + 1)) == nodes, 0.02)
    mark("pods_running", running, 0.02)
    mark("next_step", steps, 0.05)
    return marks
