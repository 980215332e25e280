"""Read a pydantic JSON schema into a tree of fields without references, unions with null or titles. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from aurl_operator.api.base import INT_OR_STRING

JsonSchema = Mapping[str, Any]


class UnrepresentableSchemaError(ValueError):
    """A construct that a Kubernetes structural schema cannot express, with its path."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")


class Kind(StrEnum):
    """Type of a field."""

    OBJECT = "object"
    MAP = "map"
    ARRAY = "array"
    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    INT_OR_STRING = "int-or-string"


# Keywords with the same meaning in JSON schema and in Kubernetes' OpenAPI v3.
BOUND_KEYWORDS: Final = (
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
)
_SCALARS: Final = {kind.value: kind for kind in (Kind.STRING, Kind.INTEGER, Kind.NUMBER, Kind.BOOLEAN)}
_SUPPORTED: Final = frozenset(
    {"title", "description", "default", "$defs", "type", "enum", "format", "anyOf", *BOUND_KEYWORDS}
    | {"properties", "required", "additionalProperties", "items"}
)


@dataclass(frozen=True)
class Field:
    """One field of the schema. `items` is the element of an array or the value of a map."""

    kind: Kind
    description: str = ""
    default: Any = None
    choices: tuple[Any, ...] = ()
    bounds: Mapping[str, Any] = field(default_factory=dict)
    format: str | None = None
    properties: Mapping[str, Field] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    items: Field | None = None
    extensions: Mapping[str, Any] = field(default_factory=dict)


def read(schema: JsonSchema, path: str = "", remarks: Mapping[str, str] | None = None) -> Field:
    """Return the field tree of a JSON schema (draft 2020-12, as pydantic writes it).

    `path` is the name of the root in messages, such as `spec`. `remarks` are appended to the descriptions at
    their paths, where `[]` stands for the elements of a list. Raises UnrepresentableSchemaError for recursion
    and for every construct that the models do not use; nothing is dropped silently.
    """
    return _Reader(schema.get("$defs", {}), remarks or {}).read(schema, path, ())


@dataclass(frozen=True)
class _Reader:
    """Reads schemas, resolving `$ref` to the definitions it holds."""

    definitions: Mapping[str, JsonSchema]
    remarks: Mapping[str, str]

    def read(self, schema: JsonSchema, path: str, above: tuple[str, ...]) -> Field:
        while "$ref" in schema:  # keys next to the reference win
            name = str(schema["$ref"]).rpartition("/")[2]
            if name in above:
                raise UnrepresentableSchemaError(path, f"{name} contains itself; a CRD cannot be recursive.")
            beside = {key: value for key, value in schema.items() if key != "$ref"}
            schema, above = {**self.definitions[name], **beside}, (*above, name)
        extensions = {key: value for key, value in schema.items() if key.startswith("x-")}
        unknown = sorted(schema.keys() - _SUPPORTED - extensions.keys())
        if unknown:
            raise UnrepresentableSchemaError(
                path, f"the CRD generator does not support {unknown[0]!r}; use another type, or extend it."
            )
        found = (self._union if "anyOf" in schema else self._plain)(schema, path, above)
        text = schema.get("description")
        return replace(
            found,
            description=f"{_flow(text)} {self.remarks.get(path, '')}".rstrip() if text else found.description,
            default=schema.get("default", found.default),
            extensions={**found.extensions, **extensions},
        )

    def _plain(self, schema: JsonSchema, path: str, above: tuple[str, ...]) -> Field:
        kind, form = schema.get("type"), schema.get("format")
        if form not in (None, "date-time"):
            raise UnrepresentableSchemaError(path, f"the CRD generator does not support the format {form!r}.")
        if kind == "object":
            return self._object(schema, path, above)
        bounds = _bounds(schema, path)
        if kind == "array":
            return Field(Kind.ARRAY, bounds=bounds, items=self.read(schema["items"], f"{path}[]", above))
        if kind not in _SCALARS:
            raise UnrepresentableSchemaError(path, f"type {kind!r} has no counterpart in a CRD.")
        return Field(_SCALARS[kind], choices=tuple(schema.get("enum", ())), bounds=bounds, format=form)

    def _object(self, schema: JsonSchema, path: str, above: tuple[str, ...]) -> Field:
        values = schema.get("additionalProperties")
        properties = schema.get("properties")
        if not properties and isinstance(values, Mapping):
            return Field(Kind.MAP, items=self.read(values, f"{path}[*]", above))
        if not properties and values is not False:
            return Field(Kind.MAP, items=None)
        return Field(
            Kind.OBJECT,
            properties={
                name: self.read(child, f"{path}.{name}" if path else name, above)
                for name, child in (properties or {}).items()
            },
            required=frozenset(schema.get("required", ())),
        )

    def _union(self, schema: JsonSchema, path: str, above: tuple[str, ...]) -> Field:
        read = [self.read(b, path, above) for b in schema["anyOf"] if b.get("type") != "null"]
        if len(read) == 1:
            return read[0]
        if not schema.get(INT_OR_STRING):
            kinds = " and ".join(sorted(branch.kind for branch in read))
            raise UnrepresentableSchemaError(path, f"mixes {kinds}; a field has one type, or null.")
        if any(branch.bounds or branch.choices for branch in read):
            raise UnrepresentableSchemaError(path, "an integer or string has its bounds next to the union.")
        return Field(Kind.INT_OR_STRING, bounds=_bounds(schema, path))


def _flow(text: str) -> str:
    """Join the lines of each paragraph: the line breaks of a docstring carry no meaning."""
    return "\n".join(" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))


def _bounds(schema: JsonSchema, path: str) -> dict[str, Any]:
    """Return the bounds in `schema`; exclusive bounds of integers become inclusive."""
    bounds = {key: schema[key] for key in BOUND_KEYWORDS if key in schema}
    for exclusive, inclusive, inwards in (
        ("exclusiveMinimum", "minimum", 1),
        ("exclusiveMaximum", "maximum", -1),
    ):
        if exclusive in bounds and inclusive in bounds:
            raise UnrepresentableSchemaError(path, f"has both {inclusive} and {exclusive}; use one of them.")
        if exclusive in bounds and schema.get("type") == "integer":
            bounds[inclusive] = bounds.pop(exclusive) + inwards
    return bounds
