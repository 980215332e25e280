"""The part of `make bench-operator` that needs a kubelet: how fast a job recovers from a killed pod."""

from __future__ import annotations

import pytest

from aurl_dev.bench import recovery
from aurl_dev.kube import Kube

pytestmark = pytest.mark.cluster


def test_recovery_is_measured_mark_by_mark(kube: Kube, namespace: str) -> None:
    found = recovery.measure_on(kube, namespace, 1, print)
    assert found["killed_to_next_step_seconds"] == found["two_nodes"]["next_step"]
    for nodes in ("two_nodes", "one_node"):
        marks = [found[nodes][mark] for mark in recovery.MARKS]
        assert marks == sorted(marks) and marks[0] >= 0, marks
