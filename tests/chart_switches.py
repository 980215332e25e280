"""All switches of the chart, read from its values and schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

from aurl_dev.cluster.paths import CHART

Values = dict[str, Any]

#: Other values that a switch needs.
_COMPANIONS: dict[str, Values] = {
    "serviceAccount.create=False": {"serviceAccount": {"name": "mine"}},
    "webhook.failurePolicy=Fail": {"webhook": {"enabled": True}},
}
#: Samples for values that are empty by default and enable a block of a template.
_SAMPLES: Values = {
    "nameOverride": "trainer",
    "fullnameOverride": "trainer",
    "commonLabels": {"team": "music"},
    "image.tag": "1.2.3",
    "image.digest": f"sha256:{'0' * 64}",
    "imagePullSecrets": [{"name": "registry"}],
    "trainer.image": "example.org/trainer:2",
    "watchNamespaces": ["one", "two"],
    "serviceAccount.name": "mine",
    "serviceAccount.annotations": {"example.org/role": "trainer"},
    "podLabels": {"team": "music"},
    "podAnnotations": {"example.org/note": "yes"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "priorityClassName": "system-cluster-critical",
    "extraEnv": [{"name": "TZ", "value": "UTC"}],
    "service.annotations": {"example.org/note": "yes"},
    "metrics.monitorLabels": {"release": "prometheus"},
    "metrics.prometheusRule.runbookBaseUrl": "https://git.example.org/aurl",
    "metrics.dashboards.annotations": {"grafana_folder": "Aurl"},
    "metrics.dashboards.namespace": "monitoring",
    "networkPolicy.ingressFrom": [{"namespaceSelector": {}}],
    "webhook.secretName": {"webhook": {"enabled": True, "secretName": "mine", "caBundle": "Y2E="}},
    "webhook.caBundle": {"webhook": {"enabled": True, "secretName": "mine", "caBundle": "Y2E="}},
    "global": {"imageRegistry": "example.org"},
}
#: The switch that enables the block in which these are used.
_PARENTS = {
    "networkPolicy.ingressFrom": "networkPolicy.enabled",
    "metrics.prometheusRule.runbookBaseUrl": "metrics.prometheusRule.enabled",
    "metrics.dashboards.annotations": "metrics.dashboards.enabled",
    "metrics.dashboards.namespace": "metrics.dashboards.enabled",
}


def switches() -> dict[str, Values]:
    """Return values that each change one switch from its default, by name and setting of the switch.

    Switches are booleans, enumerations, and values that are empty by default.
    """
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    found: dict[str, Values] = {"defaults": {}, "replicaCount=2": {"replicaCount": 2}}
    for path, default, rule in _leaves(defaults, schema, schema):
        if isinstance(default, bool):
            settings: list[Any] = [not default]
        elif "enum" in rule:
            settings = [word for word in rule["enum"] if word != default]
        elif default in ("", [], {}):
            settings = [_SAMPLES[path]] if path in _SAMPLES else []
        else:
            settings = []
        for setting in settings:
            name = f"{path}={setting}"
            whole = isinstance(setting, dict) and path.partition(".")[0] in setting
            values = setting if whole else _nested(path, setting)
            parent = _PARENTS.get(path)
            others = _nested(parent, True) if parent else _COMPANIONS.get(name, {})
            found[name] = _merged(values, others)
    return found


def unsampled() -> list[str]:
    """Return the values that are empty by default and have no sample in `switches`."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    empty = [path for path, default, rule in _leaves(defaults, schema, schema) if default in ("", [], {})]
    return [path for path in empty if path not in _SAMPLES]


def _leaves(
    values: Values, schema: Values, root: Values, path: str = ""
) -> Iterator[tuple[str, Any, Values]]:
    for key, value in values.items():
        rule = schema.get("properties", {}).get(key, {})
        if "$ref" in rule:
            rule = root["definitions"][rule["$ref"].rpartition("/")[2]]
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict) and "properties" in rule:
            yield from _leaves(value, rule, root, here)
        else:
            yield here, value, rule


def _nested(path: str, value: Any) -> Values:
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)


def _merged(left: Values, right: Values) -> Values:
    both = dict(left)
    for key, value in right.items():
        mine = both.get(key)
        both[key] = _merged(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return both
