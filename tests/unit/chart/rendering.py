"""The chart, rendered as Helm does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from helm_python import Chart

Object = dict[str, Any]


def render_files(chart: Chart, values: Mapping[str, Any], release: str = "aurl") -> dict[str, str]:
    """The rendered files by path."""
    return dict(chart.render(dict(values), name=release, namespace="aurl-system"))


def render(chart: Chart, values: Mapping[str, Any], release: str = "aurl") -> list[Object]:
    """The rendered manifests."""
    files = render_files(chart, values, release)
    texts = (text for name, text in files.items() if name.endswith(".yaml"))
    return [each for text in texts for each in yaml.safe_load_all(text) if each]
