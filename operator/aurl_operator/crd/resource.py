"""Assemble the CustomResourceDefinition of AurlTrainingJob. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import yaml

from aurl_operator import api
from aurl_operator.crd.fields import Field, JsonSchema, Kind, read
from aurl_operator.crd.structural import structural

# Objects are named <job>-prepare-<n>, <job>-<attempt>-<index> and so on, must fit the 63 characters of a DNS
# label, and the name of a Service begins with a letter.
NAME_BOUNDS: Final = {"minLength": 1, "maxLength": 50, "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}

# Lines between these two need a server that knows CEL rules (1.25); the chart drops them for older ones,
# whose published schema does not have the keyword and whose clients therefore refuse it.
CEL_BEGIN: Final = "# begin: Kubernetes 1.25"
CEL_END: Final = "# end: Kubernetes 1.25"


@dataclass(frozen=True)
class ExactlyOne:
    """One of several keys of the object at `path` must be given, and only one.

    `[]` in the path names the elements of a list. No keys means: of all that the object has.
    """

    path: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class CelRule:
    """A CEL rule on the object at `path`, for Kubernetes 1.25 and later."""

    path: str
    rule: str
    message: str


EXACTLY_ONE: Final = (
    ExactlyOne("spec.storage", ("claimName", "claimTemplate")),
    ExactlyOne("spec.dataset.source"),
    ExactlyOne("spec.podTemplate.volumes[]", ("emptyDir", "configMap", "persistentVolumeClaim")),
)
# What `validation.py` finds as well, for older servers and with a longer sentence.
_NODES: Final = "(has(self.numNodes) ? self.numNodes : 1)"
_PROVIDER_IS_PLAIN: Final = (
    "!has(self.gangScheduling) || !has(self.gangScheduling.provider) || "
    "self.gangScheduling.provider == 'Plain'"
)
CEL_RULES: Final = (
    CelRule(
        "spec",
        "!has(self.elastic) || self.elastic.minNodes <= self.elastic.maxNodes",
        "elastic.minNodes must not be more than elastic.maxNodes",
    ),
    CelRule(
        "spec",
        f"!has(self.elastic) || ({_NODES} >= self.elastic.minNodes && {_NODES} <= self.elastic.maxNodes)",
        "numNodes must lie between elastic.minNodes and elastic.maxNodes",
    ),
    CelRule(
        "spec",
        f"!has(self.elastic) || {_PROVIDER_IS_PLAIN}",
        "the gangScheduling.provider of an elastic job must be Plain",
    ),
    CelRule(
        "spec",
        "!has(self.gangScheduling) || !has(self.gangScheduling.provider) || "
        "self.gangScheduling.provider != 'Kueue' || has(self.gangScheduling.queue)",
        "gangScheduling.queue must name a LocalQueue for the provider Kueue",
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
    """The two roots of the resource."""

    spec: Field
    status: Field


def tree(job: Mapping[str, JsonSchema]) -> Tree:
    """Return the field trees of `spec` and `status`.

    `job` holds the trainer's schemas of `dataset` and `training`, which replace the operator's untyped fields
    of these names.
    """
    spec = read(api.JobSpec.model_json_schema(), "spec")
    typed = {name: read(schema, f"spec.{name}") for name, schema in job.items()}
    spec = replace(spec, properties={name: typed.get(name, field) for name, field in spec.properties.items()})
    for choice in EXACTLY_ONE:
        if choice.keys:
            sentence = f"Exactly one of {', '.join(choice.keys)} must be given."
            spec = _say(spec, choice.path.split(".")[1:], sentence)
    return Tree(spec=spec, status=read(api.JobStatus.model_json_schema(), "status"))


def _say(field: Field, path: list[str], sentence: str) -> Field:
    """Return the field with a sentence added to the description of what stands at `path` below it."""
    if not path:
        return replace(field, description=f"{field.description} {sentence}".lstrip())
    name = path[0].removesuffix("[]")
    child = field.properties[name]
    if path[0].endswith("[]"):
        assert child.items is not None
        child = replace(child, items=_say(child.items, path[1:], sentence))
    else:
        child = _say(child, path[1:], sentence)
    return replace(field, properties={**field.properties, name: child})


def definition(roots: Tree) -> dict[str, Any]:
    """Return the CustomResourceDefinition (apiextensions.k8s.io/v1)."""
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
    for choice in EXACTLY_ONE:
        chosen = _at(schema, choice.path)
        chosen["oneOf"] = [{"required": [key]} for key in choice.keys or chosen["properties"]]
    for cel in CEL_RULES:
        rules = _at(schema, cel.path).setdefault("x-kubernetes-validations", [])
        rules.append({"rule": cel.rule, "message": cel.message})
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{api.PLURAL}.{api.GROUP}"},
        "spec": {
            "group": api.GROUP,
            "names": {
                "kind": api.KIND,
                "listKind": f"{api.KIND}List",
                "plural": api.PLURAL,
                "singular": api.SINGULAR,
                "shortNames": list(api.SHORT_NAMES),
                "categories": list(api.CATEGORIES),
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": api.VERSION,
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
                    "additionalPrinterColumns": [_column(*each) for each in api.PRINTER_COLUMNS],
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _at(schema: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the part of a structural schema that describes the object at `path`."""
    for part in path.split("."):
        schema = schema["properties"][part.removesuffix("[]")]
        if part.endswith("[]"):
            schema = schema["items"]
    return schema


def _column(name: str, path: str, kind: str, priority: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "type": kind, "jsonPath": path}
    return entry | {"priority": priority} if priority else entry


def to_yaml(crd: Mapping[str, Any]) -> str:
    """Return the definition as YAML with the CEL rules between `CEL_BEGIN` and `CEL_END` lines."""
    text = yaml.dump(crd, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
    lines: list[str] = []
    indent: int | None = None
    for line in text.splitlines():
        depth = len(line) - len(line.lstrip())
        if indent is not None and (
            depth < indent or (depth == indent and not line.lstrip().startswith("- "))
        ):
            lines.append(f"{' ' * indent}{CEL_END}")
            indent = None
        if line.strip() == "x-kubernetes-validations:":
            indent = depth
            lines.append(f"{' ' * indent}{CEL_BEGIN}")
        lines.append(line)
    if indent is not None:
        lines.append(f"{' ' * indent}{CEL_END}")
    return "\n".join(lines) + "\n"


def without_cel(text: str) -> str:
    """Return the YAML as the chart renders it for servers before 1.25."""
    return re.sub(rf"(?ms)^ *{re.escape(CEL_BEGIN)}$.*?^ *{re.escape(CEL_END)}$\n", "", text)


class _Dumper(yaml.SafeDumper):
    """Writes equal parts twice rather than as anchors and aliases, which few people read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
