"""Bring images and chart into a cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aurl_dev.cluster import helm, images
from aurl_dev.cluster.provider import Cluster

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts/aurl-operator"
RELEASE, NAMESPACE = "aurl", "aurl-system"

Echo = Callable[[str], None]


def values(loaded: dict[str, images.Image]) -> dict[str, object]:
    """The chart values that make it use these very images, which no registry has."""
    repository, _, tag = loaded["operator"].reference.rpartition(":")
    return {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"},
        "trainer": {"image": loaded["trainer"].reference, "imagePullPolicy": "IfNotPresent"},
    }


def install(cluster: Cluster, echo: Echo) -> dict[str, images.Image]:
    """Build the images, load them and install or upgrade the chart; returns the images used."""
    loaded = images.load(cluster, images.build(echo=echo), echo)
    echo(f"Helm: installing {RELEASE} into namespace {NAMESPACE}")
    helm.install(cluster.kubeconfig, RELEASE, CHART, NAMESPACE, values(loaded), wait_seconds=120)
    return loaded
