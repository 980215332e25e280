"""Bad input is rejected with its path, or reported by a condition and an event."""

from __future__ import annotations

import time
from typing import Any

import pytest
from rich.console import Console

from aurl_dev.cluster.images import Image
from aurl_dev.demo.follow import follow
from aurl_dev.demo.volume import run_on_volume
from aurl_dev.jobs import small
from aurl_dev.kube import Kube, Object, condition
from aurl_dev.waiting import wait_for

pytestmark = pytest.mark.cluster

SECONDS = 30


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"training__stepz": 10}, ("stepz",), id="misspelt"),
        pytest.param({"training__optimizer__learningRat": 1e-3}, ("learningRat",), id="misspelt-nested"),
        pytest.param({"training__steps": 0}, ("spec.training.steps",), id="out-of-bounds"),
        pytest.param({"training__model__dropout": 1.5}, ("spec.training.model.dropout",), id="not-a-share"),
        pytest.param({"training__mode": "transformr"}, ("spec.training.mode",), id="unknown-mode"),
        pytest.param({"numNodes": 0}, ("spec.numNodes",), id="no-nodes"),
        pytest.param({"training__steps": "many"}, ("spec.training.steps",), id="wrong-type"),
    ],
)
def test_kubectl_apply_rejects(
    kube: Kube, namespace: str, change: dict[str, Any], words: tuple[str, ...]
) -> None:
    said = kube.apply(namespace, small("wrong", **change), check=False)
    assert all(word in said for word in words), said
    assert kube.job(namespace, "wrong") is None


def surfaced(kube: Kube, namespace: str, name: str, *words: str) -> Object:
    """Wait until a condition and an event contain all words; no pod may restart or be added meanwhile."""
    began = time.monotonic()

    def found() -> Object | None:
        job = kube.job(namespace, name)
        conditions = ((job or {}).get("status") or {}).get("conditions", [])
        speaking = [one for one in conditions if all(word in one.get("message", "") for word in words)]
        events = [
            event for event in kube.events(namespace, name) if all(word in event["message"] for word in words)
        ]
        return job if speaking and events else None

    job = wait_for(f"job {name} to report {words}", found, SECONDS, every=0.25)
    assert time.monotonic() - began <= SECONDS
    pods = kube.pods(namespace, name)
    assert len(pods) <= small(name)["spec"]["numNodes"], [pod["metadata"]["name"] for pod in pods]
    for pod in pods:
        assert all(status["restartCount"] == 0 for status in pod["status"].get("containerStatuses", [])), pod[
            "metadata"
        ]["name"]
    return job


def test_a_missing_claim(kube: Kube, namespace: str) -> None:
    kube.apply(namespace, small("claimless", storage__claimTemplate=None, storage__claimName="nowhere"))
    surfaced(kube, namespace, "claimless", "nowhere")
    assert kube.pods(namespace, "claimless") == []


def test_an_image_that_does_not_exist(kube: Kube, namespace: str) -> None:
    kube.apply(namespace, small("imageless", image="localhost/no-such-image:v0"))
    job = surfaced(kube, namespace, "imageless", "localhost/no-such-image:v0")
    assert condition(job, "Stalled")["status"] == "True"


def test_more_memory_than_any_node_has(kube: Kube, namespace: str) -> None:
    kube.apply(
        namespace,
        small("greedy", resourcesPerNode={"requests": {"memory": "900Ti"}, "limits": {"memory": "900Ti"}}),
    )
    surfaced(kube, namespace, "greedy", "nsufficient memory")


@pytest.fixture(scope="module")
def music_claim(kube: Kube, namespace: str, images: dict[str, Image]) -> str:
    """A user's claim: six good and two broken MIDI files in `mixed`, only broken ones in `bad`."""
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "music"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "100Mi"}}},
    }
    kube.apply(namespace, claim)
    image = images["trainer"].reference
    run_on_volume(kube, namespace, "music", image, ["python3", "-c", _WRITE_MUSIC], "write-music")
    return "music"


_WRITE_MUSIC = """
import pathlib, random, mido
random.seed(7)
root = pathlib.Path("/mnt/aurl")
for directory, good in (("mixed", 6), ("bad", 0)):
    (root / directory).mkdir()
    for number in range(good):
        file = mido.MidiFile(ticks_per_beat=480)
        track = mido.MidiTrack()
        file.tracks.append(track)
        for _ in range(400):
            pitch = random.randrange(48, 84)
            track.append(mido.Message("note_on", note=pitch, velocity=64, time=0))
            track.append(mido.Message("note_off", note=pitch, velocity=0, time=240))
        file.save(root / directory / f"good-{number}.mid")
    (root / directory / "torn.mid").write_bytes(b"MThd" + bytes(3))
    (root / directory / "text.mid").write_text("This is not music.")
"""


def test_a_dataset_without_a_valid_file(kube: Kube, namespace: str, music_claim: str) -> None:
    bad = {"directory": {"path": "bad"}}
    kube.apply(
        namespace,
        small(
            "tuneless",
            storage__claimTemplate=None,
            storage__claimName=music_claim,
            dataset__source=bad,
        ),
    )
    job = surfaced(kube, namespace, "tuneless", "bad")
    assert condition(job, "Failed")["status"] == "True"
    assert job["status"]["state"] == "Failed"
    assert job["status"]["lastFailure"]["class"] == "UserError"
    assert job["status"].get("restarts", {}).get("total", 0) == 0


def test_a_corrupt_file_among_good_ones_is_named_and_stops_nothing(
    kube: Kube, namespace: str, music_claim: str
) -> None:
    job = small(
        "mixed",
        numNodes=1,
        storage__claimTemplate=None,
        storage__claimName=music_claim,
        dataset__source={"directory": {"path": "mixed"}},
        training__steps=20,
        training__contextLength=64,
        training__batch={"globalBatchSize": 4, "microBatchSize": 4},
    )
    kube.apply(namespace, job)
    story = follow(kube, namespace, "mixed", time.time(), 240, Console())
    assert story.state == "Succeeded", story.line()
    ended = kube.job(namespace, "mixed")
    assert ended is not None
    dataset = ended["status"]["dataset"]
    assert (dataset["files"], dataset["dropped"]) == (6, 2)
    messages = " ".join(event["message"] for event in kube.events(namespace, "mixed"))
    assert "torn.mid" in messages and "text.mid" in messages, messages
    # The user's claim outlives the job.
    kube.delete_job(namespace, "mixed")
    assert kube.find(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{music_claim}") is not None
