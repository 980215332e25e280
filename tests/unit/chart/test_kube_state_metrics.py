"""The configuration of kube-state-metrics: every path exists in the CRD's schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml

from aurl_operator.api.status import State

CHARTS = Path(__file__).resolve().parents[3] / "charts"
CRD = yaml.safe_load((CHARTS / "aurl-operator/files/crd.yaml").read_text())
SCHEMA: dict[str, Any] = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
(RESOURCE,) = yaml.safe_load((CHARTS / "kube-state-metrics.yaml").read_text())["spec"]["resources"]
#: Metadata that the API server adds to every object.
METADATA = {"name", "namespace", "creationTimestamp"}


def paths(value: Any, root: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """All paths of a metric, from the root of the object."""
    if isinstance(value, Mapping):
        here = (*root, *value.get("path", ()))
        if "path" in value:
            yield here
        if "valueFrom" in value:
            yield (*here, *value["valueFrom"])
        for labelled in value.get("labelsFromPath", {}).values():
            yield (*here, *labelled)
        for key, inner in value.items():
            if key not in ("path", "valueFrom", "labelsFromPath"):
                yield from paths(inner, here)


def exists(path: tuple[str, ...]) -> bool:
    """True if the schema has a field at `path`; lists stand for their elements."""
    if path[0] == "metadata":
        return len(path) == 2 and path[1] in METADATA
    at = SCHEMA
    for part in path:
        at = at.get("items", at)
        if part not in at.get("properties", {}):
            return False
        at = at["properties"][part]
    return True


def test_group_version_and_kind() -> None:
    kind = RESOURCE["groupVersionKind"]
    assert kind["group"] == CRD["spec"]["group"]
    assert kind["version"] == CRD["spec"]["versions"][0]["name"]
    assert kind["kind"] == CRD["spec"]["names"]["kind"]


def test_every_path_exists() -> None:
    found = [path for metric in RESOURCE["metrics"] for path in paths(metric["each"])]
    found += [tuple(path) for path in RESOURCE["labelsFromPath"].values()]
    assert len(found) > 15
    assert [path for path in found if not exists(path)] == []
    assert not exists(("status", "progress", "steps"))


def test_all_states_are_known() -> None:
    (states,) = (m["each"]["stateSet"]["list"] for m in RESOURCE["metrics"] if m["name"] == "state")
    assert set(states) == set(get_args(State))
    names = [metric["name"] for metric in RESOURCE["metrics"]]
    assert len(names) == len(set(names))
