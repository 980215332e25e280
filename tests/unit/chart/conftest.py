"""The chart as a fixture."""

from __future__ import annotations

import pytest
from helm_python import Chart

from aurl_dev.cluster.paths import CHART


@pytest.fixture(scope="package")
def chart() -> Chart:
    """The chart as Helm loads it."""
    return Chart.load(str(CHART))
