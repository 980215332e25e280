"""The chart's own test on the real cluster: `helm test` as an administrator runs it after an install."""

from __future__ import annotations

import pytest

from aurl_dev.cluster import helm
from aurl_dev.cluster.provider import Cluster
from aurl_dev.demo.install import NAMESPACE, RELEASE
from aurl_dev.kube import Kube

pytestmark = pytest.mark.cluster


def test_helm_test_asks_the_operator_whether_it_is_ready(cluster: Cluster, kube: Kube) -> None:
    said = helm.test(cluster.kubeconfig, RELEASE, NAMESPACE)
    assert "/readyz 200" in said
