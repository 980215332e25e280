"""The base of the typed configuration models, and error messages that a user can act on."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel


def _finish(schema: dict[str, Any], model: type[Config]) -> None:
    """Describe each key, and turn `X | None` into an optional X: a CRD has no unions with null."""
    descriptions = _docstrings_of_fields(model)
    for name, field in model.model_fields.items():
        entry = schema["properties"][field.alias]
        if name in descriptions:
            entry["description"] = descriptions[name]
        branches = [branch for branch in entry.get("anyOf", []) if branch != {"type": "null"}]
        if len(branches) == 1 and len(entry["anyOf"]) == 2:
            rest = {key: value for key, value in entry.items() if key not in ("anyOf", "default")}
            schema["properties"][field.alias] = branches[0] | rest


def _docstrings_of_fields(model: type[Config]) -> dict[str, str]:
    """Return the string below each field, inherited ones included.

    pydantic's `use_attribute_docstrings` reads the source at every import, for a tenth of a second or more;
    only the schema needs it.
    """
    found: dict[str, str] = {}
    for owner in reversed(model.__mro__[: model.__mro__.index(Config)]):
        [definition] = ast.parse(inspect.getsource(owner)).body
        assert isinstance(definition, ast.ClassDef)
        for field, text in pairwise(definition.body):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(docstring))),
                ):
                    found[name] = " ".join(docstring.split())
    return found


class Config(BaseModel):
    """A frozen configuration model: camelCase keys in YAML, snake_case in Python, unknown keys rejected."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        # A default outside its own bounds should fail in the first test.
        validate_default=True,
        # Allow fields named model_*.
        protected_namespaces=(),
        json_schema_extra=_finish,
    )

    def _faults(self) -> Iterator[str]:
        """Yield a message for each setting that conflicts with another or has no effect, with its cure."""
        yield from ()

    def unused(self, because: str, *names: str) -> Iterator[str]:
        """Yield a message for each field of `names` that is set although `because` makes it unused."""
        for name in names:
            if not is_default(self, name):
                alias = type(self).model_fields[name].alias
                yield f"{alias} has no effect with {because}: leave it out"

    @model_validator(mode="after")
    def _without_fault(self) -> Self:
        for fault in self._faults():
            raise ValueError(fault)
        return self


Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
FractionBelowOne = Annotated[float, Field(ge=0, lt=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
Steps = Annotated[int, Field(ge=0, le=1_000_000_000)]
PositiveSteps = Annotated[int, Field(ge=1, le=1_000_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


def is_default(config: Config, name: str) -> bool:
    """Return True if a field equals its default, whether or not the file spells it out."""
    field = type(config).model_fields[name]
    return bool(getattr(config, name) == field.get_default(call_default_factory=True))


def explain(error: ValidationError, root: str) -> str:
    """Return one line per error of a configuration, as `spec.training.steps: …`.

    `root` is the path of the validated object in the user's file, such as `spec.training`.
    """
    return "\n".join(f"{_path(root, fault['loc'])}: {_sentence(fault)}" for fault in error.errors())


def _path(root: str, location: Iterable[int | str]) -> str:
    path = root
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:  # pydantic reports the alias, and an unknown key as typed
            path += f".{part}" if path else part
    return path


def _sentence(fault: object) -> str:
    assert isinstance(fault, dict)
    kind, message = fault["type"], str(fault["msg"])
    given = fault.get("input")
    if kind == "extra_forbidden":
        return "unknown key; check its spelling."
    if kind == "missing":
        return "required key is missing."
    if kind == "value_error":  # raised by our validators, already a sentence
        return _stop(message.removeprefix("Value error, "))
    text = _stop(message[0].lower() + message[1:])
    if isinstance(given, bool | int | float | str):
        text = f"{text[:-1]}, not {given!r}."
    return text


def _stop(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."
