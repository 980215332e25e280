"""Assemble the CRD of AurlTrainingJob. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import yaml

from aurl_operator.api import base
from aurl_operator.api.spec import JobSpec
from aurl_operator.api.status import PRINTER_COLUMNS, JobStatus
from aurl_operator.crd.fields import Field, JsonSchema, Kind, read
from aurl_operator.crd.structural import structural

# The names of objects (<job>-prepare-<n>, <job>-<attempt>-<index> …) must fit into a DNS label of 63
# characters, and the name of a Service must start with a letter.
NAME_BOUNDS: Final = {"minLength": 1, "maxLength": 50, "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}

# The lines between these two need CEL rules (Kubernetes 1.25). The chart drops them for older servers, whose
# clients reject the unknown keyword.
CEL_BEGIN: Final = "# begin: Kubernetes 1.25"
CEL_END: Final = "# end: Kubernetes 1.25"


@dataclass(frozen=True)
class CelRule:
    """A CEL rule for the object at `path` (Kubernetes 1.25 and later)."""

    path: str
    rule: str
    message: str


# Exactly one of these keys of the object at the path must be set; none are named: one of all its keys.
# `[]` in a path stands for the elements of a list.
EXACTLY_ONE: Final[dict[str, tuple[str, ...]]] = {
    "spec.storage": ("claimName", "claimTemplate"),
    "spec.dataset.source": (),
    "spec.podTemplate.volumes[]": ("emptyDir", "configMap", "persistentVolumeClaim"),
}
# core/validation.py makes the same checks for older servers, with longer messages.
_NODES: Final = "(has(self.numNodes) ? self.numNodes : 1)"
_PROVIDER_IS_PLAIN: Final = (
    "!has(self.gangScheduling) || !has(self.gangScheduling.provider) || "
    "self.gangScheduling.provider == 'Plain'"
)
CEL_RULES: Final = (
    CelRule(
        "spec",
        "!has(self.elastic) || self.elastic.minNodes <= self.elastic.maxNodes",
        "elastic.minNodes must not exceed elastic.maxNodes",
    ),
    CelRule(
        "spec",
        f"!has(self.elastic) || ({_NODES} >= self.elastic.minNodes && {_NODES} <= self.elastic.maxNodes)",
        "numNodes must be between elastic.minNodes and elastic.maxNodes",
    ),
    CelRule(
        "spec",
        f"!has(self.elastic) || {_PROVIDER_IS_PLAIN}",
        "elastic requires gangScheduling.provider Plain",
    ),
    CelRule(
        "spec",
        "!has(self.gangScheduling) || !has(self.gangScheduling.provider) || "
        "self.gangScheduling.provider != 'Kueue' || has(self.gangScheduling.queue)",
        "gangScheduling.provider Kueue requires gangScheduling.queue, the name of a LocalQueue",
    ),
    CelRule(
        "spec",
        "has(self.managedBy) == has(oldSelf.managedBy) && "
        "(!has(self.managedBy) || self.managedBy == oldSelf.managedBy)",
        "managedBy cannot be changed after creation",
    ),
)


@dataclass(frozen=True)
class Tree:
    """The field trees of `spec` and `status`."""

    spec: Field
    status: Field


def tree(job: Mapping[str, JsonSchema]) -> Tree:
    """Return the field trees of `spec` and `status`.

    `job` holds the trainer's schemas of `dataset` and `training`; they replace the operator's untyped fields.
    """
    remarks = {
        path: f"Exactly one of {', '.join(keys)} must be set." for path, keys in EXACTLY_ONE.items() if keys
    }
    spec = read(JobSpec.model_json_schema(), "spec", remarks)
    typed = {name: read(schema, f"spec.{name}") for name, schema in job.items()}
    spec = replace(spec, properties={name: typed.get(name, field) for name, field in spec.properties.items()})
    return Tree(spec=spec, status=read(JobStatus.model_json_schema(), "status"))


def crd(roots: Tree) -> dict[str, Any]:
    """Return the CRD (apiextensions.k8s.io/v1)."""
    name = Field(Kind.STRING, bounds=NAME_BOUNDS)
    schema: dict[str, Any] = {
        "description": "A training job for a symbolic-music model, run as a gang of torchrun pods.",
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "properties": {"name": structural(name)}},
            "spec": structural(roots.spec),
            "status": structural(roots.status),
        },
    }
    for path, keys in EXACTLY_ONE.items():
        chosen = _at(schema, path)
        chosen["oneOf"] = [{"required": [key]} for key in keys or chosen["properties"]]
    for cel in CEL_RULES:
        rules = _at(schema, cel.path).setdefault("x-kubernetes-validations", [])
        rules.append({"rule": cel.rule, "message": cel.message})
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{base.PLURAL}.{base.GROUP}"},
        "spec": {
            "group": base.GROUP,
            "names": {
                "kind": base.KIND,
                "listKind": f"{base.KIND}List",
                "plural": base.PLURAL,
                "singular": base.SINGULAR,
                "shortNames": list(base.SHORT_NAMES),
                "categories": list(base.CATEGORIES),
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": base.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.numNodes",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": [_column(*each) for each in PRINTER_COLUMNS],
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _at(schema: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the part of a structural schema for the object at `path`."""
    for part in path.split("."):
        schema = schema["properties"][part.removesuffix("[]")]
        if part.endswith("[]"):
            schema = schema["items"]
    return schema


def _column(name: str, path: str, kind: str, priority: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "type": kind, "jsonPath": path}
    return entry | {"priority": priority} if priority else entry


def to_yaml(manifest: Mapping[str, Any]) -> str:
    """Return the CRD as YAML, with the CEL rules between `CEL_BEGIN` and `CEL_END` lines."""
    text = yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
    rules = r"(?m)^( *)x-kubernetes-validations:\n(?:\1[- ] .*\n)+"
    return re.sub(rules, rf"\1{CEL_BEGIN}\n\g<0>\1{CEL_END}\n", text)


def without_cel(text: str) -> str:
    """Return the YAML as the chart renders it for servers older than 1.25."""
    return re.sub(rf"(?ms)^ *{re.escape(CEL_BEGIN)}$.*?^ *{re.escape(CEL_END)}$\n", "", text)


class _Dumper(yaml.SafeDumper):
    """Repeats equal parts instead of writing anchors and aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
