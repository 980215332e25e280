"""The dashboard files: complete, consistent, and using only metrics that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "charts/aurl-operator/dashboards"
BOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")
}
#: Variables of Grafana, which a dashboard does not define.
BUILT_IN = {"__rate_interval", "__all"}
#: Metrics of the Prometheus client library.
PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total"}


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The panels without row headings."""
    return (panel for panel in board["panels"] if panel["type"] != "row")


def documented() -> set[str]:
    """The metrics of docs/contracts.md, including histogram buckets."""
    names = set(re.findall(r"`(aurl_[a-z_]+)[`{]", (ROOT / "docs/contracts.md").read_text()))
    return names | {f"{name}_bucket" for name in names} | PROCESS


def test_there_are_three_dashboards() -> None:
    assert BOARDS.keys() == {"aurl-fleet", "aurl-job", "aurl-operator"}
    assert all(board["uid"] == name for name, board in BOARDS.items())


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_every_panel_has_a_title_description_and_unit(name: str) -> None:
    board = BOARDS[name]
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(numbers) == len(set(numbers))
    titles = [panel["title"] for panel in panels(board)]
    assert len(titles) == len(set(titles))
    for panel in panels(board):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"], panel["title"]


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_panels_do_not_overlap(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[name]["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_variables_are_defined_and_used(name: str) -> None:
    board = BOARDS[name]
    variables = board["templating"]["list"]
    defined = {variable["name"] for variable in variables}
    assert "datasource" in defined
    text = json.dumps([board["panels"], variables])
    used = set(re.findall(r"\$\{?(\w+)", text)) - BUILT_IN
    assert used == defined
    if name == "aurl-job":
        assert defined == {"datasource", "namespace", "job", "rank"}


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_all_metrics_are_documented(name: str) -> None:
    known = documented()
    assert len(known) > 60
    for panel in panels(BOARDS[name]):
        for target in panel["targets"]:
            names = set(re.findall(r"\b((?:aurl|process)_[a-z_]+)\b", target["expr"]))
            assert names and names <= known, (panel["title"], names - known)


def test_every_metric_of_a_job_is_on_a_panel() -> None:
    """Metrics without a panel are listed here, with the reason."""
    shown = " ".join(
        target["expr"] for board in BOARDS.values() for panel in panels(board) for target in panel["targets"]
    )
    without_panel = {
        "aurl_train_tokens_total",  # shown as tokens_per_second
        "aurl_train_samples_total",
        "aurl_train_start_step",
        "aurl_train_checkpoint_step",
        "aurl_train_heartbeat_timestamp_seconds",  # used by an alert
        "aurl_operator_job_step",
        "aurl_prepare_files_total",  # often finished before it is scraped; see status.dataset
    }
    names = {name for name in documented() if name.startswith("aurl_") and not name.endswith("_bucket")}
    missing = {name for name in names if name not in shown and f"{name}_bucket" not in shown}
    assert missing == without_panel
