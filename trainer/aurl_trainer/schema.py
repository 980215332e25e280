"""The base of every typed configuration model, and errors in words a user can act on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel


def _absent_instead_of_null(schema: dict[str, Any]) -> None:
    """Make `X | None` an optional X: a Kubernetes structural schema has no unions; absence says the same."""
    for name, field in schema.get("properties", {}).items():
        branches = [branch for branch in field.get("anyOf", []) if branch != {"type": "null"}]
        if len(branches) == 1 and len(field["anyOf"]) == 2:
            rest = {key: value for key, value in field.items() if key not in ("anyOf", "default")}
            schema["properties"][name] = branches[0] | rest


class Config(BaseModel):
    """A frozen configuration model: camelCase keys in YAML, snake_case in Python, unknown keys refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        # A default that breaks its own bounds is a bug of ours; find it in the first test.
        validate_default=True,
        # The keys `modelX` are ours to use.
        protected_namespaces=(),
        json_schema_extra=_absent_instead_of_null,
    )


def refuse_without_effect(config: Config, names: Iterable[str], because: str) -> None:
    """Raise ValueError where one of `names` is not at its default, although `because` leaves it unread."""
    for name in names:
        if not is_default(config, name):
            alias = type(config).model_fields[name].alias
            raise ValueError(f"{alias} has no effect with {because}: leave it out")


def is_default(config: Config, name: str) -> bool:
    """Tell whether a field has its default, written down or not: a resolved file means the same job."""
    field = type(config).model_fields[name]
    return bool(getattr(config, name) == field.get_default(call_default_factory=True))


def explain(error: ValidationError, root: str) -> str:
    """Tell each fault of a configuration in one sentence per line, as `spec.training.steps: …`.

    `root` is the path of the validated object in the user's file, for instance `spec.training`.
    """
    return "\n".join(f"{_path(root, fault['loc'])}: {_sentence(fault)}" for fault in error.errors())


def _path(root: str, location: Iterable[int | str]) -> str:
    path = root
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:  # pydantic gives the alias, and an unknown key as it was typed
            path += f".{part}" if path else part
    return path


def _sentence(fault: object) -> str:
    assert isinstance(fault, dict)
    kind, message = fault["type"], str(fault["msg"])
    given = fault.get("input")
    if kind == "extra_forbidden":
        return "this key is not known; check its spelling."
    if kind == "missing":
        return "this key is required and missing."
    if kind == "value_error":  # raised by a validator of ours: already a sentence
        return _stop(message.removeprefix("Value error, "))
    text = _stop(message[0].lower() + message[1:])
    if isinstance(given, bool | int | float | str):
        text = f"{text[:-1]}, not {given!r}."
    return text


def _stop(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."
