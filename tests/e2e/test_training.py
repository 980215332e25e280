"""Jobs on a real cluster: they produce music, and a deleted pod does not change the result."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mido
import pytest
import yaml
from rich.console import Console

from aurl_dev.cluster.images import Image
from aurl_dev.cluster.provider import Cluster
from aurl_dev.demo import story
from aurl_dev.demo.follow import Story, follow
from aurl_dev.demo.volume import run_on_volume
from aurl_dev.jobs import small
from aurl_dev.kube import Kube, condition
from aurl_dev.prometheus import Prometheus
from aurl_dev.waiting import wait_for

pytestmark = pytest.mark.cluster


def run_to_end(kube: Kube, namespace: str, name: str, seconds: float = 300) -> Story:
    """Follow an applied job until it ends."""
    return follow(kube, namespace, name, time.time(), seconds, Console())


def checkpoints(kube: Kube, namespace: str, job: str, image: str) -> dict[int, str]:
    """Return the sha256 of the weights of each checkpoint on the job's volume, by step."""
    job_dir = f"/mnt/aurl/{namespace}/{job}"
    command = ["aurl-trainer", "checkpoints", "list", "--job-dir", job_dir, "--json"]
    log = run_on_volume(kube, namespace, f"{job}-data", image, command, f"{job}-checkpoints")
    listed = json.loads(log.strip().splitlines()[-1])["checkpoints"]
    return {one["step"]: one["sha256"] for one in listed}


@dataclass(frozen=True)
class Undisturbed:
    """The result of the demo's code with a small job."""

    plan: story.Plan
    summary: dict[str, Any]
    weights: dict[int, str]


@pytest.fixture(scope="module")
def undisturbed(
    cluster: Cluster,
    images: dict[str, Image],
    prometheus: Prometheus,
    tmp_path_factory: pytest.TempPathFactory,
) -> Undisturbed:
    """Run the code of `make demo` while Prometheus scrapes operator and trainer."""
    directory = tmp_path_factory.mktemp("demo")
    job_file = directory / "job.yaml"
    job_file.write_text(yaml.safe_dump(small("demo-small")))
    plan = story.Plan(cluster.name, "e2e-demo", job_file, directory / "output")
    summary = story.run(Console(), plan)
    kube = Kube(cluster.kubeconfig, retries=3)
    weights = checkpoints(kube, plan.namespace, plan.job, images["trainer"].reference)
    return Undisturbed(plan, summary, weights)


def test_the_demo_ends_with_music(undisturbed: Undisturbed) -> None:
    plan, summary = undisturbed.plan, undisturbed.summary
    assert json.loads((plan.output / "summary.json").read_text()) == summary
    assert summary["state"] == "Succeeded"
    assert summary["steps"] == 300
    assert summary["checkpoint_step"] == 300
    assert summary["restarts"] == 0
    assert summary["final_loss"] < summary["initial_loss"] - 1
    assert summary["tokens_per_second"] > 0
    assert 0 < summary["seconds_apply_to_pods_created"] < summary["seconds_apply_to_first_step"]
    assert summary["seconds_apply_to_first_step"] < summary["seconds_total"]
    notes = [message for message in mido.MidiFile(summary["sample_midi"]) if message.type == "note_on"]
    assert len(notes) > 5
    assert Path(summary["piano_roll_png"]).read_bytes().startswith(b"\x89PNG")
    assert list((plan.output / "tensorboard").rglob("events.out.tfevents.*"))


def test_prometheus_saw_operator_and_trainer(undisturbed: Undisturbed, prometheus: Prometheus) -> None:
    of_job = '{training_job="demo-small"}'
    loss = prometheus.value(f"min_over_time(aurl_train_loss{of_job[:-1]},split='train'}}[10m])")
    assert loss is not None and 0 < loss < undisturbed.summary["initial_loss"]
    assert (prometheus.value(f"max_over_time(aurl_train_tokens_per_second{of_job}[10m])") or 0) > 0
    assert (prometheus.value(f"max_over_time(aurl_train_step{of_job}[10m])") or 0) == 300
    memory = prometheus.query(f"max_over_time(aurl_train_memory_bytes{of_job[:-1]},kind='rss'}}[10m])")
    assert {series["metric"]["rank"] for series in memory} == {"0", "1"}
    assert all(float(series["value"][1]) > 100e6 for series in memory)
    of_state = "{job_namespace='e2e-demo', job_name='demo-small', state='Succeeded'}"
    assert wait_for(
        "the operator's metric to report Succeeded",
        lambda: prometheus.value(f"aurl_operator_job_state{of_state}") == 1,
        20,
        every=0.25,
    )
    assert (prometheus.value("aurl_operator_reconcile_seconds_count") or 0) > 0
    assert prometheus.query("up{pod=~'aurl-.*operator.*'} == 1"), "the operator is not scraped"


def test_a_deleted_pod_does_not_change_the_result(
    kube: Kube, namespace: str, images: dict[str, Image], undisturbed: Undisturbed
) -> None:
    """A worker is deleted between two checkpoints: the gang restarts, and all weights are bitwise equal."""
    kube.apply(namespace, small("struck"))
    steps = 300

    def in_the_middle() -> bool:
        progress = kube.progress(namespace, "struck-0-0") or {}
        assert progress.get("state") != "Finished", "the job ended before it could be struck"
        saved = (progress.get("lastCheckpoint") or {}).get("step", 0)
        return bool(saved >= 40 and saved + 5 <= progress.get("step", 0) <= steps - 60)

    wait_for("job struck to be past a checkpoint", in_the_middle, 240, every=0.1)
    kube.kubectl("-n", namespace, "delete", "pod", "struck-0-1", "--grace-period=0", "--force")
    struck = run_to_end(kube, namespace, "struck")
    assert struck.state == "Succeeded", struck.line()
    assert (struck.restarts, struck.attempt) == (1, 1)
    job = kube.job(namespace, "struck")
    assert job is not None
    assert job["status"]["restarts"]["byClass"] == {"Infrastructure": 1}
    start = (job["status"]["progress"] or {}).get("startStep")
    assert start is not None and 40 <= start < steps, "the second attempt did not start at a checkpoint"

    weights = undisturbed.weights
    after_strike = checkpoints(kube, namespace, "struck", images["trainer"].reference)
    assert weights[steps] == after_strike[steps]
    # Also every later checkpoint that both runs have; those written on SIGTERM have other steps.
    common = weights.keys() & after_strike.keys()
    assert {step: weights[step] for step in common} == {step: after_strike[step] for step in common}
    reasons = {event["reason"] for event in kube.events(namespace, "struck")}
    assert reasons, "no event reports the restart"
    assert condition(job, "Succeeded")["status"] == "True"


def test_kubectl_shows_the_job_and_deleting_it_leaves_nothing(kube: Kube, undisturbed: Undisturbed) -> None:
    namespace = undisturbed.plan.namespace
    table = kube.kubectl("-n", namespace, "get", "atj").stdout.splitlines()
    assert table[0].split() == ["NAME", "STATE", "NODES", "STEP", "LOSS", "TOK/S", "CKPT", "RESTARTS", "AGE"]
    assert table[1].split()[:2] == ["demo-small", "Succeeded"]
    kube.kubectl("-n", namespace, "wait", "--for=condition=Succeeded", "atj/demo-small", "--timeout=5s")

    kube.delete_job(namespace, "demo-small")
    kinds, selector = "pods,services,configmaps,pvc,networkpolicies", "aurl.ai/job-name=demo-small"

    def gone() -> bool:
        return not kube.kubectl("-n", namespace, "get", kinds, "-l", selector, "-o", "name").stdout.strip()

    wait_for("everything of the job to be gone", gone, 60, every=0.25)
    kube.kubectl("delete", "namespace", namespace, "--wait=false")
