"""Every panel and every rule on data that a real Prometheus has scraped from the jobs of the other modules.

These include jobs of all modes, one that lost a pod and recovered, and some that failed for good: pytest runs
the modules of this folder in the order of their names. If this module runs alone, it runs such jobs itself.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from aurl_dev.cluster.paths import CHART
from aurl_dev.demo.follow import follow
from aurl_dev.jobs import small
from aurl_dev.kube import Kube
from aurl_dev.prometheus import Prometheus
from aurl_dev.waiting import wait_for
from e2e.test_modes import shortened

pytestmark = pytest.mark.cluster

BOARDS = sorted((CHART / "dashboards").glob("*.json"))
#: Panels without data on this machine; their queries must be valid all the same.
WITHOUT_DATA = {"Device memory": "there is no GPU"}
CHOICES = {"namespace": ".*", "job": ".*", "rank": ".*", "__rate_interval": "30s", "__interval": "5s"}


@dataclass(frozen=True)
class Past:
    """The time range in which everything happened that panels show."""

    begin: float
    end: float


@pytest.fixture(scope="module")
def past(kube: Kube, namespace: str, prometheus: Prometheus) -> Past:
    """Wait until everything has happened and been scraped."""
    began = time.time() - 3600

    def ever(expression: str) -> bool:
        return bool(prometheus.query(f"max_over_time(({expression})[1h:2s]) > 0"))

    if not ever('aurl_operator_restarts_total{class="Infrastructure"}'):
        kube.apply(namespace, small("lost", training__steps=100))
        wait_for("a checkpoint", lambda: _step(kube, namespace, "lost-0-0") > 45, 240, every=0.1)
        kube.kubectl("-n", namespace, "delete", "pod", "lost-0-1", "--grace-period=0", "--force")
        assert follow(kube, namespace, "lost", time.time(), 240, Console()).state == "Succeeded"
    if not ever('aurl_operator_failures_total{class="UserError"}'):
        kube.apply(namespace, small("tuneless", dataset__source={"directory": {"path": "nowhere"}}))
        assert follow(kube, namespace, "tuneless", time.time(), 120, Console()).state == "Failed"
    if not ever("aurl_train_evaluation{metric='nll'}"):
        kube.apply(namespace, shortened("vae.yaml"))
        assert follow(kube, namespace, "chorales-vae", time.time(), 240, Console()).state == "Succeeded"
    wait_for("the last scrape", lambda: ever('aurl_operator_jobs{state="Succeeded"}'), every=0.25)
    return Past(began, time.time())


def _step(kube: Kube, namespace: str, pod: str) -> int:
    progress = kube.progress(namespace, pod) or {}
    return int((progress.get("lastCheckpoint") or {}).get("step", 0)) and int(progress.get("step", 0))


def filled_in(expression: str) -> str:
    """Return a panel's query with a value for each variable."""
    for name, value in CHOICES.items():
        expression = expression.replace(f"${{{name}}}", value).replace(f"${name}", value)
    assert "$" not in expression, expression
    return expression


def numbers(series: list[dict[str, Any]]) -> Iterator[float]:
    """Yield all values of range series that are numbers."""
    for each in series:
        yield from (value for _, text in each["values"] if not math.isnan(value := float(text)))


@pytest.mark.parametrize("path", BOARDS, ids=[path.stem for path in BOARDS])
def test_no_panel_is_empty(path: Path, past: Past, prometheus: Prometheus) -> None:
    empty = []
    for panel in json.loads(path.read_text())["panels"]:
        if panel["type"] == "row":
            continue
        found = [
            value
            for target in panel["targets"]
            for value in numbers(prometheus.over(filled_in(target["expr"]), past.begin, past.end))
        ]
        if not found and panel["title"] not in WITHOUT_DATA:
            empty.append(panel["title"])
    assert empty == []


def test_the_variables_have_values(past: Past, prometheus: Prometheus) -> None:
    for path in BOARDS:
        for variable in json.loads(path.read_text())["templating"]["list"]:
            if variable["type"] != "query":
                continue
            inner = variable["definition"].removeprefix("label_values(").removesuffix(")")
            selector, _, label = inner.rpartition(", ")
            series = prometheus.over(filled_in(selector), past.begin, past.end)
            assert {each["metric"].get(label) for each in series} - {None, ""}, variable["name"]


def test_every_recording_rule_has_a_result(past: Past, prometheus: Prometheus) -> None:
    """Evaluates the expressions, as this Prometheus has no rules. Alerts need not fire, but must be valid."""
    groups = yaml.safe_load((CHART / "rules/aurl.yaml").read_text())["groups"]
    records = {
        rule["record"]: rule["expr"] for group in groups for rule in group["rules"] if "record" in rule
    }
    # The recorded time is shorter than five minutes.
    shorter = {name: expression.replace("[5m]", "[30s]") for name, expression in records.items()}
    empty = [
        name
        for name, expression in shorter.items()
        if not list(numbers(prometheus.over(expression, past.begin, past.end)))
    ]
    assert empty == []
    for rule in (rule for group in groups for rule in group["rules"] if "alert" in rule):
        expression = rule["expr"]
        for name, recorded in records.items():
            expression = expression.replace(name, f"({recorded})")
        prometheus.query(expression)
