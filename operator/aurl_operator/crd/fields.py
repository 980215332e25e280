"""Read a pydantic JSON schema into a tree of fields without references, unions with null or titles. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from aurl_operator.api.base import INT_OR_STRING

JsonSchema = Mapping[str, Any]


class UnrepresentableSchemaError(ValueError):
    """A construct that a Kubernetes structural schema cannot express, with its path."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path


class Kind(StrEnum):
    """Type of a field; `ANY` is a mixture that the API server cannot type."""

    OBJECT = "object"
    MAP = "map"
    ARRAY = "array"
    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    INT_OR_STRING = "int-or-string"
    ANY = "any"


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()

# Keywords with the same meaning in JSON schema and in Kubernetes' OpenAPI v3.
BOUND_KEYWORDS: Final = (
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "maxProperties",
)
# Formats that the API server of every supported release checks as pydantic does.
KNOWN_FORMATS: Final = frozenset({"date-time", "int32", "int64", "double", "uuid", "ipv4", "ipv6"})
_SCALARS: Final = {kind.value: kind for kind in (Kind.STRING, Kind.INTEGER, Kind.NUMBER, Kind.BOOLEAN)}
_IGNORED: Final = frozenset(
    {"title", "description", "default", "examples", "discriminator", "$defs", "additionalProperties"}
    | {"propertyNames", "writeOnly", "readOnly", "deprecated", "nullable"}
)


@dataclass(frozen=True)
class Variant:
    """One branch of a union of objects: the key and value that select it, its keys, and the required ones."""

    selector: tuple[str, Any] | None
    properties: frozenset[str]
    required: frozenset[str]


@dataclass(frozen=True)
class Field:
    """One field of the schema. `items` is the element of an array or the value of a map."""

    kind: Kind
    description: str = ""
    default: Any = MISSING
    choices: tuple[Any, ...] = ()
    bounds: Mapping[str, Any] = field(default_factory=dict)
    format: str | None = None
    examples: tuple[Any, ...] = ()
    nullable: bool = False
    properties: Mapping[str, Field] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    items: Field | None = None
    variants: tuple[Variant, ...] = ()
    # The types that an `ANY` or `INT_OR_STRING` accepts, each with its own bounds.
    alternatives: tuple[Field, ...] = ()
    extensions: Mapping[str, Any] = field(default_factory=dict)


def read(schema: JsonSchema, path: str = "") -> Field:
    """Return the field tree of a JSON schema (draft 2020-12, as pydantic writes it).

    `path` is the name of the root in messages, such as `spec`. Raises UnrepresentableSchemaError for
    recursion, for tuples of different elements and for unions that mix objects or arrays with other types.
    """
    return _Reader(schema.get("$defs", {})).read(schema, path, ())


class _Reader:
    """Reads schemas, resolving `$ref` to the definitions it holds."""

    def __init__(self, definitions: Mapping[str, JsonSchema]) -> None:
        self._definitions = definitions

    def read(self, schema: JsonSchema, path: str, above: tuple[str, ...]) -> Field:
        schema, above = self._resolve(schema, path, above)
        branches = schema.get("anyOf") or schema.get("oneOf")
        if branches is not None:
            return _described(self._union(schema, branches, path, above), schema)
        return _described(self._plain(schema, path, above), schema)

    def _resolve(
        self, schema: JsonSchema, path: str, above: tuple[str, ...]
    ) -> tuple[JsonSchema, tuple[str, ...]]:
        """Replace a reference by its target; keys next to the reference win."""
        while True:
            parts = schema.get("allOf", [])
            if len(parts) == 1:
                schema = {**parts[0], **{key: value for key, value in schema.items() if key != "allOf"}}
            elif parts:
                raise UnrepresentableSchemaError(
                    path, "allOf of several schemas is not supported; use one model."
                )
            if "$ref" not in schema:
                return schema, above
            name = str(schema["$ref"]).rpartition("/")[2]
            if name in above:
                raise UnrepresentableSchemaError(path, f"{name} contains itself; a CRD cannot be recursive.")
            if name not in self._definitions:
                raise UnrepresentableSchemaError(path, f"refers to {name}, which is missing from $defs.")
            beside = {key: value for key, value in schema.items() if key != "$ref"}
            schema, above = {**self._definitions[name], **beside}, (*above, name)

    def _plain(self, schema: JsonSchema, path: str, above: tuple[str, ...]) -> Field:
        choices = _choices(schema)
        kind = schema.get("type") or (_type_of(choices) if choices else None)
        unknown = set(schema) - _IGNORED - set(BOUND_KEYWORDS)
        unknown -= {"type", "enum", "const", "properties", "required", "items", "prefixItems", "format"}
        unknown = {key for key in unknown if not key.startswith("x-")}
        if unknown:
            raise UnrepresentableSchemaError(path, f"unknown keyword {sorted(unknown)[0]}.")
        if kind is None:
            return Field(Kind.ANY)
        if kind == "object":
            return self._object(schema, path, above)
        if kind == "array":
            return self._array(schema, path, above)
        if kind not in _SCALARS:
            raise UnrepresentableSchemaError(path, f"type {kind!r} has no counterpart in a CRD.")
        form = schema.get("format")
        return Field(
            _SCALARS[kind],
            choices=choices,
            bounds=_bounds(schema),
            format=form if form in KNOWN_FORMATS else None,
        )

    def _object(self, schema: JsonSchema, path: str, above: tuple[str, ...]) -> Field:
        values = schema.get("additionalProperties")
        properties = schema.get("properties")
        if not properties and isinstance(values, Mapping):
            item = self.read(values, f"{path}[*]", above)
            return Field(Kind.MAP, bounds=_bounds(schema), items=item)
        if not properties and values is not False:
            return Field(Kind.MAP, bounds=_bounds(schema), items=None)
        return Field(
            Kind.OBJECT,
            bounds=_bounds(schema),
            properties={
                name: self.read(child, f"{path}.{name}" if path else name, above)
                for name, child in (properties or {}).items()
            },
            required=frozenset(schema.get("required", ())),
        )

    def _array(self, schema: JsonSchema, path: str, above: tuple[str, ...]) -> Field:
        bounds = _bounds(schema)
        elements: Sequence[JsonSchema] = schema.get("prefixItems", ())
        if elements:
            read = [self.read(element, f"{path}[*]", above) for element in elements]
            if any(element != read[0] for element in read):
                raise UnrepresentableSchemaError(path, "a tuple of different elements; name them in a model.")
            return Field(Kind.ARRAY, bounds=bounds, items=read[0])
        if "items" not in schema:
            raise UnrepresentableSchemaError(path, "a list without an element type.")
        return Field(Kind.ARRAY, bounds=bounds, items=self.read(schema["items"], f"{path}[*]", above))

    def _union(
        self, schema: JsonSchema, branches: Sequence[JsonSchema], path: str, above: tuple[str, ...]
    ) -> Field:
        read = [self.read(b, path, above) for b in branches if b.get("type") != "null"]
        if len(read) == 1:
            return read[0]
        if schema.get(INT_OR_STRING):
            # The pattern next to the union is for the API server; pydantic cannot put it on one branch.
            kept = tuple(each for each in read if each.kind is not Kind.NUMBER)
            return Field(Kind.INT_OR_STRING, bounds=_bounds(schema), alternatives=kept)
        kinds = {branch.kind for branch in read}
        if kinds == {Kind.OBJECT}:
            selector = schema.get("discriminator", {}).get("propertyName")
            return _merge_objects(read, selector, path)
        if not kinds <= set(_SCALARS.values()):
            raise UnrepresentableSchemaError(
                path, f"mixes {' and '.join(sorted(kinds))}; a CRD can only mix scalars or objects."
            )
        if len(kinds) == 1:
            return _merge_scalars(read, path)
        if kinds == {Kind.INTEGER, Kind.STRING}:
            return Field(Kind.INT_OR_STRING, alternatives=tuple(read))
        if kinds == {Kind.INTEGER, Kind.NUMBER}:
            return _merge_scalars([replace(branch, kind=Kind.NUMBER) for branch in read], path)
        return Field(Kind.ANY, alternatives=tuple(read))


def _described(found: Field, schema: JsonSchema) -> Field:
    """Return the field with description, default, examples and extensions from where it is used."""
    text = schema.get("description")
    return replace(
        found,
        description=_flow(text) if text else found.description,
        default=schema.get("default", found.default),
        examples=tuple(schema["examples"]) if "examples" in schema else found.examples,
        nullable=bool(schema.get("nullable", found.nullable)),
        extensions={
            **found.extensions,
            **{key: value for key, value in schema.items() if key.startswith("x-")},
        },
    )


def _flow(text: str) -> str:
    """Join the lines of each paragraph: the line breaks of a docstring carry no meaning."""
    return "\n".join(" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))


def _choices(schema: JsonSchema) -> tuple[Any, ...]:
    if "const" in schema:
        return (schema["const"],)
    return tuple(choice for choice in schema.get("enum", ()) if choice is not None)


def _type_of(choices: tuple[Any, ...]) -> str | None:
    names: dict[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}
    found = {names.get(type(choice)) for choice in choices}
    return found.pop() if len(found) == 1 else None


def _bounds(schema: JsonSchema) -> dict[str, Any]:
    """Return the bounds in `schema`; exclusive bounds of integers become inclusive."""
    bounds = {key: schema[key] for key in BOUND_KEYWORDS if schema.get(key) is not None}
    if schema.get("type") == "integer":
        if "exclusiveMinimum" in bounds:
            least = bounds.pop("exclusiveMinimum") + 1
            bounds["minimum"] = max(least, bounds.get("minimum", least))
        if "exclusiveMaximum" in bounds:
            most = bounds.pop("exclusiveMaximum") - 1
            bounds["maximum"] = min(most, bounds.get("maximum", most))
    return bounds


def _merge_scalars(read: Sequence[Field], path: str) -> Field:
    """Return one field that accepts everything that one of several fields of the same kind accepts."""
    first = read[0]
    if all(branch.choices for branch in read):
        merged = dict.fromkeys(choice for branch in read for choice in branch.choices)
        return replace(first, choices=tuple(merged))
    if all(branch.bounds == first.bounds and branch.choices == first.choices for branch in read):
        return first
    if first.kind is Kind.STRING:
        return replace(first, choices=(), bounds={}, alternatives=tuple(read))
    raise UnrepresentableSchemaError(path, f"is a union of two {first.kind} types with different bounds.")


def _merge_objects(read: Sequence[Field], selector: str | None, path: str) -> Field:
    """Return an object with the keys of all branches, which it keeps as variants."""
    properties: dict[str, Field] = {}
    for branch in read:
        for name, child in branch.properties.items():
            where = f"{path}.{name}"
            properties[name] = _merge(properties[name], child, where) if name in properties else child
    variants = tuple(
        Variant(
            selector=_selected(branch, selector, path),
            properties=frozenset(branch.properties),
            required=branch.required,
        )
        for branch in read
    )
    required = frozenset.intersection(*(branch.required for branch in read))
    if selector is not None:  # pydantic requires it even if the branch's model has a default
        required |= {selector}
    return Field(Kind.OBJECT, properties=properties, required=required, variants=variants)


def _selected(branch: Field, selector: str | None, path: str) -> tuple[str, Any] | None:
    if selector is None:
        return None
    choices = branch.properties[selector].choices if selector in branch.properties else ()
    if len(choices) != 1:
        raise UnrepresentableSchemaError(f"{path}.{selector}", "a discriminator must be a single constant.")
    return selector, choices[0]


def _merge(one: Field, other: Field, path: str) -> Field:
    """Return a field that covers a key shared by two variants."""
    if replace(one, description="", default=MISSING) == replace(other, description="", default=MISSING):
        same_default = one.default == other.default
        return one if same_default else replace(one, default=MISSING)
    if one.kind is not other.kind or one.kind in (Kind.OBJECT, Kind.MAP, Kind.ARRAY):
        raise UnrepresentableSchemaError(path, "has different types in variants of the same union.")
    if one.choices and other.choices:
        choices = tuple(dict.fromkeys((*one.choices, *other.choices)))
        return replace(one, choices=choices, default=MISSING)
    return replace(one, choices=(), bounds=_widest(one.bounds, other.bounds), default=MISSING)


def _widest(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    bounds: dict[str, Any] = {}
    for key in one.keys() & other.keys():
        if one[key] == other[key]:
            bounds[key] = one[key]
        elif key.startswith(("min", "exclusiveMin")):
            bounds[key] = min(one[key], other[key])
        elif key.startswith(("max", "exclusiveMax")):
            bounds[key] = max(one[key], other[key])
    return bounds
