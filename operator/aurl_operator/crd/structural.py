"""Write a tree of fields as a Kubernetes structural schema (apiextensions.k8s.io/v1). Pure.

Rules: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
Operator and trainer check what a structural schema cannot express (unknown keys, the names of a map's keys).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aurl_operator.api.base import INT_OR_STRING, PRESERVE_UNKNOWN
from aurl_operator.crd.fields import BOUND_KEYWORDS, Field, Kind

OpenApi = dict[str, Any]

_EXCLUSIVE: Final = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}


def structural(field: Field) -> OpenApi:
    """Return the structural schema; descriptions include defaults and bounds."""
    schema: OpenApi = {}
    text = describe(field)
    if text:
        schema["description"] = text
    schema |= _body(field)
    schema |= {key: value for key, value in field.extensions.items() if key.startswith("x-kubernetes-")}
    return schema


def _body(field: Field) -> OpenApi:
    match field.kind:
        case Kind.OBJECT:
            return _object(field)
        case Kind.MAP if field.items is None:
            return {"type": "object", PRESERVE_UNKNOWN: True}
        case Kind.MAP:
            assert field.items is not None
            return {"type": "object", "additionalProperties": structural(field.items)}
        case Kind.ARRAY:
            assert field.items is not None
            return {"type": "array", "items": structural(field.items), **_bounds(field.bounds)}
        case Kind.INT_OR_STRING:
            return {INT_OR_STRING: True, **_bounds(field.bounds)}
        case _:
            return _scalar(field)


def _scalar(field: Field) -> OpenApi:
    schema: OpenApi = {"type": field.kind.value}
    form = field.format or ("int64" if field.kind is Kind.INTEGER else None)
    if form:
        schema["format"] = form
    if field.choices:
        schema["enum"] = list(field.choices)
    return schema | _bounds(field.bounds)


def _object(field: Field) -> OpenApi:
    schema: OpenApi = {"type": "object"}
    if field.required:
        schema["required"] = sorted(field.required)
    schema["properties"] = {name: structural(child) for name, child in field.properties.items()}
    return schema


def _bounds(bounds: Mapping[str, Any]) -> OpenApi:
    """Return bounds in OpenAPI 3.0, where an exclusive bound is a flag next to the bound."""
    result: OpenApi = {}
    for key in BOUND_KEYWORDS:
        if key in _EXCLUSIVE and key in bounds:
            result |= {_EXCLUSIVE[key]: bounds[key], key: True}
        elif key in bounds:
            result[key] = bounds[key]
    return result


def describe(field: Field) -> str:
    """Return the description with default and bounds in words, for `kubectl explain`."""
    parts = [_stop(field.description)] if field.description else []
    limits = bounds_in_words(field)
    if limits:
        parts.append(f"{limits[0].upper()}{limits[1:]}.")
    default = default_in_words(field)
    if default:
        parts.append(f"Default: {default}.")
    return " ".join(parts)


def _stop(text: str) -> str:
    return text if text.endswith((".", "!", "?", ":")) else text + "."


def default_in_words(field: Field) -> str:
    """Return the default as YAML, or an empty string if there is none."""
    if field.default is None or field.kind is Kind.OBJECT:  # the fields of an object have their own defaults
        return ""
    return literal(field.default)


def literal(value: Any) -> str:
    """Return a value in YAML's flow style."""
    match value:
        case bool():
            return "true" if value else "false"
        case float():
            return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
        case str():
            return value or '""'
    return str(value)


def bounds_in_words(field: Field) -> str:
    """Return the bounds as `1 to 512`, `more than 0`, `one of a, b`; parts are separated by `; `."""
    if field.kind is Kind.INT_OR_STRING:  # its pattern is unreadable; its description gives examples
        return ""
    parts: list[str] = []
    if field.choices:
        parts.append(f"one of {', '.join(literal(choice) for choice in field.choices)}")
    parts += _range(field.bounds)
    for low, high, noun in (("minLength", "maxLength", "characters"), ("minItems", "maxItems", "elements")):
        parts += _count(field.bounds.get(low), field.bounds.get(high), noun)
    if "pattern" in field.bounds:
        parts.append(f"matching `{field.bounds['pattern']}`")
    return "; ".join(parts)


def _range(bounds: Mapping[str, Any]) -> list[str]:
    least, most = bounds.get("minimum"), bounds.get("maximum")
    above, below = bounds.get("exclusiveMinimum"), bounds.get("exclusiveMaximum")
    if least is not None and most is not None and above is None and below is None:
        return [f"{literal(least)} to {literal(most)}"]
    words = (("at least", least), ("more than", above), ("at most", most), ("less than", below))
    limits = [f"{word} {literal(limit)}" for word, limit in words if limit is not None]
    return [" and ".join(limits)] if limits else []


def _count(low: int | None, high: int | None, noun: str) -> list[str]:
    if low is None and high is None:
        return []
    if high == 1 or (low == 1 and high is None):
        noun = noun.removesuffix("s")
    if low == high:
        return [f"exactly {low} {noun}"]
    if low is None or low == 0:
        return [f"at most {high} {noun}"] if high is not None else []
    return [f"at least {low} {noun}" if high is None else f"{low} to {high} {noun}"]
