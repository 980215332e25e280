"""Every field of a job has a description with its unit, and bounds."""

from __future__ import annotations

import re
from typing import Any

import pytest

from aurl_trainer.cli.configuration import describe, describe_type, job_schema

UNITS = re.compile(
    r"\b(steps?|tokens?|samples|batches|checkpoints|pieces|notes|tracks|processes|threads|levels|blocks|heads|"
    r"intervals?|evaluations?|nats|seconds|bytes|standard deviations|semitones|TFLOP/s|fraction|probability|"
    r"factor|ratio|multiples|seed|pitch|width|norm|magnitude|exponent|base|number|value|learning rate|"
    r"weight decay|divides)\b",
    re.IGNORECASE,
)
"""The types of numbers in a job."""

ABSENT = re.compile(r"unset:|required unless", re.IGNORECASE)
"""How the text of an optional field without a default says what its absence means."""


def fields() -> list[Any]:
    """Every field that holds a value: its schema with what it refers to, whether it is required, the root."""
    found = []
    for root_name, root in job_schema().items():
        for model, schema in [(root_name, root), *root["$defs"].items()]:
            for name, entry in schema.get("properties", {}).items():
                reference = entry.get("$ref", "").rpartition("/")[2]
                whole = root["$defs"].get(reference, {}) | entry
                if "properties" not in whole:
                    required = name in schema.get("required", [])
                    found.append(pytest.param(whole, required, root, id=f"{model}.{name}"))
    return found


@pytest.mark.parametrize(("field", "required", "root"), fields())
def test_field_is_documented(field: dict[str, Any], required: bool, root: dict[str, Any]) -> None:
    text, kind = describe(field, root), field["type"]
    assert len(text) > 10 and text.endswith("."), text
    if kind in ("integer", "number"):
        assert {"minimum", "exclusiveMinimum"} & field.keys(), "no lower bound"
        assert {"maximum", "exclusiveMaximum"} & field.keys(), "no upper bound"
        assert UNITS.search(text), f"no unit: {text}"
    elif kind == "string" and not {"enum", "const"} & field.keys():
        assert "maxLength" in field or re.search(r"\{\d+\}\$$", field.get("pattern", "")), "no upper bound"
    elif kind == "array":
        assert "maxItems" in field, "no upper bound"
    if not required and "default" not in field and kind != "array":  # an omitted list is empty
        assert ABSENT.search(text), f"no default, and the text does not say what that means: {text}"
    assert describe_type(field, root)


def test_the_walk_sees_fields_of_every_depth() -> None:
    names = {param.id for param in fields()}
    assert {"training.steps", "LossHook.weight", "TokenizerConfig.tracks", "RampConfig.final"} <= names
    assert len(names) > 70
