"""Check a job file as `kubectl apply` and the trainer do: keys, types, bounds, consistency."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import yaml

from aurl_operator.crd.resource import without_cel
from aurl_trainer.config import JobFile

ROOT = Path(__file__).resolve().parents[1]


def crd_schema() -> dict[str, Any]:
    """Return the OpenAPI schema in the chart's CRD."""
    crd = yaml.safe_load(without_cel((ROOT / "charts/aurl-operator/files/crd.yaml").read_text()))
    schema: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema as kubectl reads it: unknown keys are rejected."""
    closed = dict(schema)
    if "properties" in schema:
        closed["properties"] = {key: strict(value) for key, value in schema["properties"].items()}
        closed.setdefault("additionalProperties", False)
    if isinstance(schema.get("items"), dict):
        closed["items"] = strict(schema["items"])
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if closed.pop(exclusive, False):
            closed[exclusive] = closed.pop(bound)
    return closed


def check_job(job: dict[str, Any], where: str) -> None:
    """Raise with the path unless the job would be accepted and trained."""
    schema = strict(crd_schema())
    # Namespace, labels and annotations are defined by Kubernetes.
    about = schema["properties"]["metadata"]
    schema["properties"]["metadata"] = {**about, "additionalProperties": True}
    jsonschema.validate(job, schema)
    JobFile.parse(job, where)
