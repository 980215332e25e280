"""The whole demo: cluster, images, operator, job, music."""

from __future__ import annotations

import base64
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.rule import Rule

from aurl_dev.cluster import helm, provider
from aurl_dev.cluster.paths import CHECKOUT
from aurl_dev.demo import install, summary
from aurl_dev.demo.follow import follow
from aurl_dev.demo.volume import run_on_volume
from aurl_dev.kube import Kube

CLUSTER = "aurl"
DEADLINE_SECONDS = 1200


class DemoFailed(RuntimeError):
    """The job failed; the message holds the operator's explanation."""


@dataclass(frozen=True)
class Plan:
    """The cluster, job and output of a demo; the end-to-end tests use a smaller job."""

    cluster: str = CLUSTER
    namespace: str = "aurl-demo"
    job_file: Path = CHECKOUT / "configs/jobs/chorales.yaml"
    output: Path = CHECKOUT / "build/demo"

    @property
    def job(self) -> str:
        """Name of the job in the file."""
        return str(yaml.safe_load(self.job_file.read_text())["metadata"]["name"])


def run(console: Console, plan: Plan = Plan()) -> dict[str, Any]:
    """Run the whole demo; return the summary, which is also written to `summary.json` in the output.

    Raises:
        DemoFailed: the job failed.
    """
    began = time.monotonic()
    plan.output.mkdir(parents=True, exist_ok=True)

    def echo(line: str) -> None:
        elapsed = time.monotonic() - began
        console.print(f"  {elapsed:5.0f} s  {line}", highlight=False, soft_wrap=True, markup=False)

    _chapter(console, "1/5  A Kubernetes cluster")
    cluster = provider.ensure(plan.cluster, echo=echo)
    _chapter(console, "2/5  Images and the operator")
    built = install.install(cluster, echo)
    kube = Kube(cluster.kubeconfig, retries=3)

    _chapter(console, f"3/5  One job: {plan.job}")
    kube.ensure_namespace(plan.namespace)
    kube.delete_job(plan.namespace, plan.job)  # of an earlier run
    echo(f"kubectl apply -n {plan.namespace} -f {_shown(plan.job_file)}")
    forward = (
        f"kubectl --kubeconfig={cluster.kubeconfig} -n {plan.namespace} port-forward pod/{plan.job}-0-0 9402"
    )
    echo(f"to see its page at http://localhost:9402/ while it trains: {forward}")
    applied_at = time.time()
    kube.kubectl("-n", plan.namespace, "apply", "-f", str(plan.job_file))
    story = follow(kube, plan.namespace, plan.job, applied_at, DEADLINE_SECONDS, console)
    if story.state != "Succeeded":
        raise DemoFailed(
            f"job {plan.namespace}/{plan.job} failed: {story.failure} For details: "
            f"kubectl --kubeconfig={cluster.kubeconfig} -n {plan.namespace} describe atj {plan.job}"
        )

    _chapter(console, "4/5  Music from the last checkpoint")
    files = fetch_results(kube, plan.namespace, plan.job, built["trainer"].reference, plan.output)
    _chapter(console, "5/5  Results")
    figures = summary.summarise(story, files, time.monotonic() - began)
    summary.write(figures, plan.output / "summary.json")
    console.print(summary.table(figures, story))
    rank_0 = next((name for name in story.pods if name.endswith("-0") and "-prepare-" not in name), plan.job)
    summary.print_next_steps(
        console, cluster.kubeconfig, plan.namespace, plan.job, rank_0, Path(files["tensorboard"])
    )
    return figures


def fetch_results(kube: Kube, namespace: str, job: str, image: str, output: Path) -> dict[str, str]:
    """Sample from the job's newest checkpoint in a pod on its volume, and copy the files to `output`.

    Returns the paths of `sample_midi`, `piano_roll_png` and `tensorboard`, relative to the project.
    """
    job_dir = f"/mnt/aurl/{namespace}/{job}"
    claim = f"{job}-data"
    log = run_on_volume(kube, namespace, claim, image, ["python3", "-c", _FETCH, job_dir], f"{job}-results")
    sampled, packed = log.strip().splitlines()[-2:]
    sample = json.loads(sampled)["samples"][0]
    (output / "sample.mid").write_bytes(base64.b64decode(sample["midi"]))
    (output / "piano_roll.png").write_bytes(base64.b64decode(sample["png"]))
    events = output / "tensorboard"
    shutil.rmtree(events, ignore_errors=True)  # of an earlier run
    events.mkdir()
    for name, content in json.loads(packed).items():
        (events / Path(name).name).write_bytes(base64.b64decode(content))
    found = {"sample_midi": "sample.mid", "piano_roll_png": "piano_roll.png", "tensorboard": "tensorboard"}
    return {key: _shown(output / name) for key, name in found.items()}


# Runs in the pod: two lines of JSON, the sampled music and the TensorBoard event files.
_FETCH = """
import base64, json, pathlib, subprocess, sys
subprocess.run(["aurl-trainer", "sample", "--job-dir", sys.argv[1], "--json"], check=True)
files = pathlib.Path(sys.argv[1], "tensorboard").rglob("events.out.tfevents.*")
print(json.dumps({file.name: base64.b64encode(file.read_bytes()).decode() for file in files}))
"""


def down(console: Console, plan: Plan = Plan()) -> None:
    """Delete the demo's job, its namespace and the operator; the cluster stays."""
    if provider.choose() != "external" and not provider.find(plan.cluster).exists():
        console.print("Nothing to delete: the demo's cluster does not exist.")
        return
    cluster = provider.ensure(plan.cluster)
    kube = Kube(cluster.kubeconfig, retries=3)
    if kube.find("/apis/aurl.ai/v1alpha1") is not None:
        kube.delete_job(plan.namespace, plan.job)
    kube.kubectl("delete", "namespace", plan.namespace, "--ignore-not-found", "--wait=true")
    helm.uninstall(cluster.kubeconfig, install.RELEASE, install.NAMESPACE)
    console.print(f"Deleted job {plan.namespace}/{plan.job}, its namespace and release {install.RELEASE}.")
    console.print("The cluster still runs; delete it with make cluster-down.")


def _chapter(console: Console, title: str) -> None:
    console.print(Rule(title, align="left"))


def _shown(path: Path) -> str:
    return str(path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path)
