"""Load the images into a cluster and install the chart."""

from __future__ import annotations

from aurl_dev.cluster import helm, images
from aurl_dev.cluster.paths import CHART, Echo
from aurl_dev.cluster.provider import Cluster

RELEASE, NAMESPACE = "aurl", "aurl-system"


def values(loaded: dict[str, images.Image]) -> dict[str, object]:
    """Return the chart values that select these images, which are in no registry."""
    repository, _, tag = loaded["operator"].reference.rpartition(":")
    return {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"},
        "trainer": {"image": loaded["trainer"].reference, "imagePullPolicy": "IfNotPresent"},
    }


def install(cluster: Cluster, echo: Echo) -> dict[str, images.Image]:
    """Build the images, load them, and install or upgrade the chart; returns the images."""
    loaded = images.load(cluster, images.build(echo=echo), echo)
    echo(f"Helm: installing {RELEASE} into namespace {NAMESPACE}")
    helm.install(cluster.kubeconfig, RELEASE, CHART, NAMESPACE, values(loaded))
    return loaded
