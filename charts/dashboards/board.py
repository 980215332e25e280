"""Building blocks of a Grafana dashboard: variables, and panels laid out in rows from left to right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

COLUMNS = 24
JSON = dict[str, Any]
DATASOURCE: JSON = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """One panel. `unit` is a Grafana unit; `kind` is timeseries, stat, table or bargauge.

    queries: PromQL expressions by legend. needs: what a job must have for the panel to have data.
    """

    title: str
    description: str
    unit: str
    queries: Mapping[str, str]
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    stacked: bool = False
    logarithmic: bool = False
    minimum: float | None = 0
    maximum: float | None = None
    needs: str = ""

    def json(self, number: int, x: int, y: int) -> JSON:
        """Return the panel in Grafana's format."""
        custom: JSON = {}
        options: JSON = {}
        if self.kind == "timeseries":
            custom = {
                "drawStyle": "line",
                "lineWidth": 2,
                "fillOpacity": 25 if self.stacked else 8,
                "showPoints": "auto",
                "spanNulls": 60_000,
                "stacking": {"mode": "normal" if self.stacked else "none", "group": "A"},
                "scaleDistribution": {"type": "log", "log": 10} if self.logarithmic else {"type": "linear"},
            }
            options = {
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }
        elif self.kind == "stat":
            options = {
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                "colorMode": "value",
                "graphMode": "area",
                "textMode": "auto",
            }
        elif self.kind == "bargauge":
            options = {
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                "orientation": "horizontal",
                "displayMode": "gradient",
            }
        defaults: JSON = {"unit": self.unit, "custom": custom, "color": {"mode": "palette-classic"}}
        if self.minimum is not None and not self.logarithmic:
            defaults["min"] = self.minimum
        if self.maximum is not None:
            defaults["max"] = self.maximum
        instant = self.kind in ("table", "bargauge")
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description + (f" Needs {self.needs}." if self.needs else ""),
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "options": options,
            "targets": [
                {
                    "refId": chr(ord("A") + index),
                    "datasource": DATASOURCE,
                    "expr": expression,
                    "legendFormat": legend or "__auto",
                    "range": not instant,
                    "instant": instant,
                    "format": "table" if self.kind == "table" else "time_series",
                }
                for index, (legend, expression) in enumerate(self.queries.items())
            ],
        }


@dataclass(frozen=True)
class Variable:
    """A drop-down at the top of a dashboard, filled by a query for label values."""

    name: str
    label: str
    query: str
    many: bool = False

    def json(self) -> JSON:
        """Return the variable in Grafana's format."""
        return {
            "type": "query",
            "name": self.name,
            "label": self.label,
            "datasource": DATASOURCE,
            "query": {"query": self.query, "refId": self.name},
            "definition": self.query,
            "refresh": 2,
            "sort": 1,
            "multi": self.many,
            "includeAll": self.many,
            "allValue": ".*" if self.many else None,
            "current": {"text": "All", "value": "$__all"} if self.many else {},
        }


@dataclass(frozen=True)
class Dashboard:
    """A dashboard; `uid` is part of its URL and must not change. `rows`: panels by heading."""

    uid: str
    title: str
    description: str
    rows: Mapping[str, Sequence[Panel]]
    variables: Sequence[Variable] = ()
    tags: Sequence[str] = field(default=("aurl",))

    def json(self) -> JSON:
        """Return the dashboard in the format of Grafana 10 and newer."""
        panels: list[JSON] = []
        y = 0
        for title, row in self.rows.items():
            heading = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
            panels.append(
                {
                    "id": len(panels) + 1,
                    "type": "row",
                    "title": title,
                    "collapsed": False,
                    "gridPos": heading,
                    "panels": [],
                }
            )
            x, y, tallest = 0, y + 1, 0
            for panel in row:
                if x + panel.width > COLUMNS:
                    x, y, tallest = 0, y + tallest, 0
                panels.append(panel.json(len(panels) + 1, x, y))
                x, tallest = x + panel.width, max(tallest, panel.height)
            y += tallest
        datasource = {
            "type": "datasource",
            "name": "datasource",
            "label": "Prometheus",
            "query": "prometheus",
            "current": {},
        }
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": list(self.tags),
            "schemaVersion": 39,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"},
            "timezone": "browser",
            "links": [
                {
                    "type": "dashboards",
                    "title": "Aurl",
                    "tags": ["aurl"],
                    "asDropdown": True,
                    "includeVars": True,
                    "keepTime": True,
                }
            ],
            "annotations": {"list": []},
            "templating": {"list": [datasource, *(variable.json() for variable in self.variables)]},
            "panels": panels,
        }
