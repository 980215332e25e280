"""Write a tree of fields as a Kubernetes structural schema (apiextensions.k8s.io/v1). Pure.

Rules: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
Operator and trainer check what a structural schema cannot express (unknown keys, the names of a map's keys).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from aurl_operator.api.base import INT_OR_STRING, PRESERVE_UNKNOWN
from aurl_operator.crd.fields import BOUND_KEYWORDS, MISSING, Field, Kind, Variant

OpenApi = dict[str, Any]

_EXCLUSIVE: Final = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}


def structural(field: Field) -> OpenApi:
    """Return the structural schema; descriptions include defaults, bounds and examples."""
    schema: OpenApi = {}
    text = describe(field)
    if text:
        schema["description"] = text
    schema |= _body(field)
    if field.nullable:
        schema["nullable"] = True
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
            bounds = _bounds(field.bounds)
            return {"type": "object", "additionalProperties": structural(field.items), **bounds}
        case Kind.ARRAY:
            return _array(field)
        case Kind.INT_OR_STRING:
            return {INT_OR_STRING: True, **_mixed_bounds(field)}
        case Kind.ANY:
            return {PRESERVE_UNKNOWN: True, **_mixed_bounds(field)}
        case _:
            return _scalar(field)


def _scalar(field: Field) -> OpenApi:
    schema: OpenApi = {"type": field.kind.value}
    form = field.format or ("int64" if field.kind is Kind.INTEGER else None)
    if form:
        schema["format"] = form
    if field.choices:
        schema["enum"] = list(field.choices)
    if field.alternatives:  # one type with several sets of bounds
        schema["anyOf"] = [_validation(each) for each in field.alternatives]
    return schema | _bounds(field.bounds)


def _array(field: Field) -> OpenApi:
    assert field.items is not None
    bounds = _bounds(field.bounds)
    schema: OpenApi = {"type": "array", "items": structural(field.items)}
    if bounds.pop("uniqueItems", False):  # the API server rejects it; a list type says the same
        schema["x-kubernetes-list-type"] = "set"
    return schema | bounds


def _object(field: Field) -> OpenApi:
    schema: OpenApi = {"type": "object"}
    if field.required:
        schema["required"] = sorted(field.required)
    schema["properties"] = {name: structural(child) for name, child in field.properties.items()}
    schema |= _bounds(field.bounds)
    schema |= _variants(field.variants, field.required)
    return schema


def _variants(variants: Iterable[Variant], common: frozenset[str]) -> OpenApi:
    """Return the choice between variants, as far as value validations can express it."""
    branches: list[OpenApi] = []
    for variant in variants:
        branch: OpenApi = {}
        needed = variant.required - common
        if variant.selector is not None:
            key, value = variant.selector
            branch["properties"] = {key: {"enum": [value]}}
        if needed:
            branch["required"] = sorted(needed)
        branches.append(branch)
    if len(branches) < 2 or any(not branch for branch in branches):
        return {}
    return {"anyOf": branches}


def _bounds(bounds: Mapping[str, Any]) -> OpenApi:
    """Return bounds in OpenAPI 3.0, where an exclusive bound is a flag next to the bound."""
    result: OpenApi = {}
    for key in BOUND_KEYWORDS:
        if key not in bounds:
            continue
        if key in _EXCLUSIVE:
            inclusive = _EXCLUSIVE[key]
            limit = bounds[key]
            if inclusive in bounds and _stricter(key, bounds[inclusive], limit):
                continue
            result[inclusive] = limit
            result[key] = True
        else:
            result[key] = bounds[key]
    return result


def _stricter(key: str, inclusive: float, exclusive: float) -> bool:
    return inclusive > exclusive if key == "exclusiveMinimum" else inclusive < exclusive


def _validation(field: Field) -> OpenApi:
    """Return the value validation of a field; it must not contain a type."""
    validation = _bounds(field.bounds)
    if field.choices:
        validation["enum"] = list(field.choices)
    return validation


def _mixed_bounds(field: Field) -> OpenApi:
    """Return bounds for a mixed type: keywords for numbers do not apply to strings, and vice versa."""
    result = _bounds(field.bounds)
    for each in field.alternatives:
        bounds = _bounds(each.bounds)
        if each.kind is Kind.STRING and each.choices:
            bounds["pattern"] = "^(" + "|".join(re.escape(choice) for choice in each.choices) + ")$"
        elif each.choices:
            continue
        result |= bounds
    return result


def describe(field: Field) -> str:
    """Return the description with default, bounds and examples in words, for `kubectl explain`."""
    parts = [_stop(field.description)] if field.description else []
    limits = bounds_in_words(field)
    if limits:
        parts.append(f"{limits[0].upper()}{limits[1:]}.")
    default = default_in_words(field)
    if default:
        parts.append(f"Default: {default}.")
    if field.examples:
        parts.append("Example: " + ", ".join(literal(example) for example in field.examples) + ".")
    return " ".join(parts)


def _stop(text: str) -> str:
    return text if text.endswith((".", "!", "?", ":")) else text + "."


def default_in_words(field: Field) -> str:
    """Return the default as YAML, or an empty string if there is none."""
    if field.default is MISSING or field.default is None:
        return ""
    if field.kind is Kind.OBJECT:  # its fields have defaults of their own
        return ""
    return literal(field.default)


def literal(value: Any) -> str:
    """Return a value in YAML's flow style."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case float():
            return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
        case str():
            return value or '""'
        case Mapping():
            return "{" + ", ".join(f"{key}: {literal(each)}" for key, each in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(literal(each) for each in value) + "]"
    return str(value)


def bounds_in_words(field: Field) -> str:
    """Return the bounds as `1 to 512`, `more than 0`, `one of a, b`; parts are separated by `; `."""
    if field.alternatives:
        if not any(each.bounds or each.choices for each in field.alternatives):
            return ""
        return " or ".join(dict.fromkeys(filter(None, map(_alternative, field.alternatives))))
    parts: list[str] = []
    if field.choices:
        choices = ", ".join(literal(choice) for choice in field.choices)
        parts.append(f"one of {choices}" if len(field.choices) > 1 else f"only {choices}")
    parts += _range(field.bounds)
    if "multipleOf" in field.bounds:
        parts.append(f"a multiple of {literal(field.bounds['multipleOf'])}")
    for low, high, noun in (
        ("minLength", "maxLength", "characters"),
        ("minItems", "maxItems", "elements"),
        ("minProperties", "maxProperties", "keys"),
    ):
        parts += _count(field.bounds.get(low), field.bounds.get(high), noun)
    if "pattern" in field.bounds:
        parts.append(f"matching `{field.bounds['pattern']}`")
    if field.bounds.get("uniqueItems"):
        parts.append("each element once")
    return "; ".join(parts)


def _alternative(each: Field) -> str:
    bounds = bounds_in_words(each)
    noun = {Kind.INTEGER: "an integer", Kind.NUMBER: "a number", Kind.STRING: "a string"}.get(
        each.kind, each.kind
    )
    if not bounds:
        return noun
    return bounds.removeprefix("only ") if each.choices else f"{noun} {bounds}"


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
