"""How long a job on the real cluster takes to come back from a killed pod; part of `make bench-operator`."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

from cluster import provider
from demo import install
from demo.kube import Kube, Object, wait_for
from e2e.jobs import small

NAMESPACE: Final = "bench-recovery"
REPEATS: Final = 3


def measure(say: Callable[[str], None]) -> dict[str, Any]:
    """Kill a worker of a two-node job a few times; medians in seconds, from the kill on."""
    cluster = provider.ensure(os.environ.get("AURL_BENCH_CLUSTER") or "bench", say)
    try:
        install.install(cluster, say)
        kube = Kube(cluster.kubeconfig)
        kube.ensure_namespace(NAMESPACE)
        changes = {"training__steps": 100_000, "runPolicy__backoffLimit": 2 * REPEATS}
        kube.apply(NAMESPACE, small("struck", **changes))
        created, stepped = [], []
        for attempt in range(REPEATS):
            pods, step = _strike(kube, attempt)
            say(f"recovery {attempt + 1} of {REPEATS}: pods after {pods:.2f} s, step after {step:.2f} s")
            created.append(pods)
            stepped.append(step)
        kube.delete_job(NAMESPACE, "struck")
    finally:
        cluster.down()
    return {
        "repeats": REPEATS,
        "killed_to_pods_created_seconds": round(statistics.median(created), 2),
        "killed_to_next_step_seconds": round(statistics.median(stepped), 2),
        "all_seconds": [[round(a, 2), round(b, 2)] for a, b in zip(created, stepped, strict=True)],
    }


def _strike(kube: Kube, attempt: int) -> tuple[float, float]:
    """Kill node 1 once the attempt is past a checkpoint; seconds to the new pods and to their first step."""

    def past_a_checkpoint() -> bool:
        progress = kube.progress(NAMESPACE, f"struck-{attempt}-0") or {}
        saved = (progress.get("lastCheckpoint") or {}).get("step", 0)
        return bool(saved > progress.get("startStep", 0) and progress.get("step", 0) > saved)

    wait_for("the job to be past a checkpoint", 300, past_a_checkpoint)
    began = time.monotonic()
    kube.kubectl(
        *("-n", NAMESPACE, "delete", "pod", f"struck-{attempt}-1", "--grace-period=0", "--force"),
        "--wait=false",
    )

    def recreated() -> list[Object] | None:
        found = [
            pod
            for pod in kube.pods(NAMESPACE, "struck", "worker")
            if pod["metadata"]["labels"]["aurl.ai/attempt"] == str(attempt + 1)
        ]
        return found if len(found) == 2 else None

    wait_for("the pods of the next attempt", 120, recreated, every=0.02)
    created = time.monotonic() - began

    def steps() -> bool:
        progress = kube.progress(NAMESPACE, f"struck-{attempt + 1}-0") or {}
        return bool(progress.get("startStep") is not None and progress["step"] > progress["startStep"])

    wait_for("the next step", 120, steps, every=0.05)
    return created, time.monotonic() - began
