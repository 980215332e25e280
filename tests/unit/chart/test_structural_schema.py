"""From pydantic models to the structural schema: a table of constructs, equal verdicts on random values."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft4Validator, Draft202012Validator
from pydantic import BaseModel, ConfigDict, Field, create_model

from aurl_operator.crd.fields import UnrepresentableSchemaError, read
from aurl_operator.crd.structural import structural


class Corpus(BaseModel):
    """Files in a package."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(description="Which one.", min_length=1)
    pieces: int = Field(default=3, ge=1, description="How many.")


class Endless(BaseModel):
    """Contains itself."""

    inner: Endless | None = None


PRESERVE = "x-kubernetes-preserve-unknown-fields"


@pytest.mark.parametrize(
    ("annotation", "field", "expected"),
    [
        pytest.param(
            int,
            Field(default=3, ge=1, le=9, description="Blocks"),
            {
                "description": "Blocks. 1 to 9. Default: 3.",
                "type": "integer",
                "format": "int64",
                "minimum": 1,
                "maximum": 9,
            },
            id="integer with bounds and default",
        ),
        pytest.param(
            int,
            Field(gt=0, lt=10),
            {
                "description": "1 to 9.",
                "type": "integer",
                "format": "int64",
                "minimum": 1,
                "maximum": 9,
            },
            id="exclusive bounds of integers become inclusive",
        ),
        pytest.param(
            float,
            Field(gt=0, le=1),
            {
                "description": "More than 0 and at most 1.",
                "type": "number",
                "minimum": 0,
                "exclusiveMinimum": True,
                "maximum": 1,
            },
            id="exclusive bound of a number is a flag",
        ),
        pytest.param(
            float | None,
            Field(default=None, ge=0),
            {"description": "At least 0.", "type": "number", "minimum": 0},
            id="optional is not nullable",
        ),
        pytest.param(
            Literal["a", "b"],
            Field(default="a"),
            {"description": "One of a, b. Default: a.", "type": "string", "enum": ["a", "b"]},
            id="choice",
        ),
        pytest.param(
            dict[str, int],
            Field(),
            {"type": "object", "additionalProperties": {"type": "integer", "format": "int64"}},
            id="map",
        ),
        pytest.param(dict[str, Any], Field(), {"type": "object", PRESERVE: True}, id="free map"),
        pytest.param(
            Corpus,
            Field(description="From where"),
            {
                "description": "From where.",
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {
                        "description": "Which one. At least 1 character.",
                        "type": "string",
                        "minLength": 1,
                    },
                    "pieces": {
                        "description": "How many. At least 1. Default: 3.",
                        "type": "integer",
                        "format": "int64",
                        "minimum": 1,
                    },
                },
            },
            id="model: reference resolved, additionalProperties dropped, description of the place of use",
        ),
        pytest.param(
            str,
            Field(json_schema_extra={"x-kubernetes-list-type": "atomic"}),
            {
                "type": "string",
                "x-kubernetes-list-type": "atomic",
            },
            id="extensions kept",
        ),
    ],
)
def test_construct(annotation: Any, field: Any, expected: dict[str, Any]) -> None:
    """Each construct of pydantic becomes a schema that apiextensions v1 accepts."""
    model: type[BaseModel] = create_model("Holder", value=(annotation, field))
    assert structural(read(model.model_json_schema()))["properties"]["value"] == expected


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (Endless, "spec.value.inner: Endless contains itself"),
        (int | Corpus, "spec.value: mixes integer and object"),
        (list[int] | str, "spec.value: mixes array and string"),
        (int | Literal["auto"], "spec.value: the CRD generator does not support 'const'"),
        (tuple[int, str], "spec.value: the CRD generator does not support 'prefixItems'"),
        (set[str], "spec.value: the CRD generator does not support 'uniqueItems'"),
        (Annotated[int, Field(multiple_of=2)], "spec.value: the CRD generator does not support 'multipleOf'"),
        (Annotated[str, Field(examples=["a"])], "spec.value: the CRD generator does not support 'examples'"),
        (Annotated[float, Field(gt=0, ge=1)], "spec.value: has both minimum and exclusiveMinimum"),
        (UUID, "spec.value: the CRD generator does not support the format 'uuid'"),
        (Any, "spec.value: type None has no counterpart"),
    ],
)
def test_unrepresentable_constructs_are_rejected_with_their_path(annotation: Any, said: str) -> None:
    """Nothing is dropped silently."""
    model: type[BaseModel] = create_model("Holder", value=(annotation, ...))
    with pytest.raises(UnrepresentableSchemaError, match=said):
        read(model.model_json_schema(), "spec")


_BOUND = st.integers(-5, 5)


def _numbers(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    lower, upper = (st.sampled_from([f"{end}imum", f"exclusive{end.title()}imum"]) for end in ("min", "max"))
    bounds = st.dictionaries(lower, _BOUND, max_size=1), st.dictionaries(upper, _BOUND, max_size=1)
    return st.builds(lambda low, high: {"type": kind, **low, **high}, *bounds)


_SCALARS = st.one_of(
    _numbers("integer"),
    _numbers("number"),
    st.just({"type": "boolean"}),
    st.fixed_dictionaries(
        {"type": st.just("string")},
        optional={"minLength": st.integers(0, 2), "maxLength": st.integers(0, 2), "pattern": st.just("^a*$")},
    ),
    st.just({"type": "string", "enum": ["a", "b"]}),
)


def _extend(children: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.builds(lambda child: {"anyOf": [child, {"type": "null"}]}, children),
        st.builds(
            lambda child, n: {"type": "array", "items": child, "maxItems": n}, children, st.integers(0, 2)
        ),
        st.builds(lambda child: {"type": "object", "additionalProperties": child}, children),
        st.builds(
            lambda properties, required: {
                "type": "object",
                "properties": properties,
                "required": sorted(required & properties.keys()),
                "additionalProperties": False,
            },
            st.dictionaries(st.sampled_from("xyz"), children, min_size=1),
            st.sets(st.sampled_from("xyz")),
        ),
    )


_SCHEMAS = st.recursive(_SCALARS, _extend, max_leaves=6)
# The drafts disagree on whether 1.0 is an integer.
_FRACTIONS = st.floats(-7, 7).filter(lambda number: not number.is_integer())
_VALUES = st.recursive(
    st.one_of(st.integers(-7, 7), _FRACTIONS, st.booleans(), st.sampled_from(["", "a", "b", "aa", "aaa"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=6,
)


def _known_keys_only(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without `additionalProperties: false`, which structural schemas leave to pruning."""
    changed = {
        key: value for key, value in schema.items() if not (key == "additionalProperties" and not value)
    }
    for key, value in changed.items():
        if key in ("items", "additionalProperties"):
            changed[key] = _known_keys_only(value)
        elif key == "properties":
            changed[key] = {name: _known_keys_only(child) for name, child in value.items()}
        elif key == "anyOf":
            changed[key] = [_known_keys_only(child) for child in value]
    return changed


@settings(max_examples=150, deadline=None)
@given(schema=_SCHEMAS, value=_VALUES)
def test_the_structural_schema_accepts_the_same_values(schema: dict[str, Any], value: Any) -> None:
    """Draft 4 reads exclusive bounds as OpenAPI 3.0 does, so it gives the API server's verdict."""
    ours = structural(read(schema))
    assert Draft4Validator(ours).is_valid(value) == Draft202012Validator(_known_keys_only(schema)).is_valid(
        value
    )


@settings(max_examples=100, deadline=None)
@given(schema=_SCHEMAS)
def test_structural_schemas_follow_the_rules_of_apiextensions(schema: dict[str, Any]) -> None:
    """A type everywhere, and none of the keywords that the API server rejects."""
    nodes = [structural(read(schema))]
    while nodes:
        node = nodes.pop()
        assert "type" in node or node.get("x-kubernetes-int-or-string") or node.get(PRESERVE)
        assert not node.keys() & {"$ref", "$defs", "title", "const", "examples", "uniqueItems", "default"}
        assert not ("properties" in node and "additionalProperties" in node)
        assert all(isinstance(node.get(key, True), bool) for key in ("exclusiveMinimum", "exclusiveMaximum"))
        nodes += node.get("properties", {}).values()
        nodes += [node[key] for key in ("items", "additionalProperties") if key in node]
