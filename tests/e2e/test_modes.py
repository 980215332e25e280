"""The autoencoders' job files on a real cluster, shortened: from `kubectl apply` to music."""

from __future__ import annotations

import time
from typing import Any

import pytest
import yaml
from rich.console import Console

from aurl_dev.cluster.images import Image
from aurl_dev.cluster.paths import CHECKOUT
from aurl_dev.demo.follow import follow
from aurl_dev.demo.volume import run_on_volume
from aurl_dev.kube import Kube
from aurl_dev.prometheus import Prometheus

pytestmark = pytest.mark.cluster

STEPS = 20


def shortened(file: str) -> dict[str, Any]:
    """Return a job file of configs/jobs with fewer pieces and steps."""
    job: dict[str, Any] = yaml.safe_load((CHECKOUT / "configs/jobs" / file).read_text())
    spec = job["spec"]
    spec["dataset"]["source"]["music21Corpus"]["maxPieces"] = 12
    # All phases: the players of vae-gan start at 40 and 50 %.
    spec["training"] |= {"steps": STEPS, "checkpoint": {"everySteps": 10}}
    spec["training"]["evaluation"] = {
        "everySteps": 10,
        "batches": 1,
        "music": {"everySteps": 10, "samples": 2},
    }
    spec["training"]["logging"] = {"everySteps": 2}
    spec["training"]["schedule"] = {"warmupSteps": 4}
    spec["training"]["sample"] = {"count": 1, "maxTokens": 96}
    return job


@pytest.mark.parametrize(
    ("file", "terms"),
    [
        ("vae.yaml", {"kl_bar", "kl_phrase", "kl_global", "reconstruction_pitch"}),
        ("vae-gan.yaml", {"kl_bar", "critic_states", "critic_latents", "adversarial_states"}),
    ],
)
def test_an_autoencoder_trains_from_its_job_file(
    file: str,
    terms: set[str],
    kube: Kube,
    namespace: str,
    images: dict[str, Image],
    prometheus: Prometheus,
) -> None:
    job = shortened(file)
    name = job["metadata"]["name"]
    kube.apply(namespace, job)
    story = follow(kube, namespace, name, time.time(), 240, Console())
    assert story.state == "Succeeded", story.failure
    assert (story.step, story.restarts) == (STEPS, 0)
    assert story.initial_loss is not None and story.loss is not None
    assert story.loss < story.initial_loss
    of_job = f"{{training_job='{name}'}}"
    seen = {
        each["metric"]["term"]
        for each in prometheus.query(f"last_over_time(aurl_train_loss_component{of_job}[10m])")
    }
    assert terms <= seen
    measures = {
        each["metric"]["metric"]
        for each in prometheus.query(f"last_over_time(aurl_train_evaluation{of_job}[10m])")
    }
    assert {"nll", "nll_shuffled", "active_units_bar", "bits_per_note", "overlap", "valid_tokens"} <= measures
    samples = f"/mnt/aurl/{namespace}/{name}/samples/step-{STEPS:08d}"
    script = f"import mido; print(mido.MidiFile('{samples}/sample-0.mid').length)"
    image = images["trainer"].reference
    said = run_on_volume(kube, namespace, f"{name}-data", image, ["python3", "-c", script], f"{name}-look")
    assert float(said.strip().splitlines()[-1]) >= 0
    kube.delete_job(namespace, name)
