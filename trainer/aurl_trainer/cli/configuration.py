"""`aurl-trainer config`, `explain` and `schema`: the configuration validated, documented and as a schema."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from aurl_trainer.cli.jobfile import read_job, resolved
from aurl_trainer.config import TrainingConfig
from aurl_trainer.data.config import DatasetConfig
from aurl_trainer.errors import UserError

_BOUNDS = (
    ("minimum", "≥ {}"), ("exclusiveMinimum", "> {}"), ("maximum", "≤ {}"), ("exclusiveMaximum", "< {}"),
    ("minLength", "at least {} characters"), ("maxLength", "at most {} characters"),
    ("pattern", "matching {}"),
)  # fmt: skip


def show(options: argparse.Namespace) -> int:
    """Validate a job file and print its configuration with all defaults, as a bare file."""
    configuration = resolved(read_job(options.job, options.changes).config)
    print(yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True), end="")
    return 0


def schema(_options: argparse.Namespace) -> int:
    """Print the JSON schema of `dataset` and `training`."""
    print(json.dumps(job_schema(), indent=2, ensure_ascii=False))
    return 0


def explain(options: argparse.Namespace) -> int:
    """Print type, default, bounds and description of a key and of those below it.

    Raises UserError if the key does not exist.
    """
    key = options.key.removeprefix("spec.")
    found = False
    for root, root_schema in job_schema().items():
        for path, entry in walk(root_schema, root_schema, root):
            if key in ("", path) or path.startswith((f"{key}.", f"{key}[")):
                found = True
                print(f"{path}  ({describe_type(entry, root_schema)})")
                print(textwrap.indent(textwrap.fill(describe(entry, root_schema), 100), "    "))
    if not found:
        raise UserError(f"The key {key!r} does not exist; `aurl-trainer explain` lists all keys.")
    return 0


def job_schema() -> dict[str, Any]:
    """Return pydantic's JSON schemas of `dataset` and `training`, with the keys of YAML."""
    return {
        name: model.model_json_schema(by_alias=True)
        for name, model in (("dataset", DatasetConfig), ("training", TrainingConfig))
    }


def walk(schema: dict[str, Any], root: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield path and schema of every key below `schema`, following references into `root`."""
    for name, entry in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        yield here, entry
        for option in (entry, *entry.get("anyOf", []), *entry.get("oneOf", [])):
            yield from walk(_follow(option, root), root, here)
            if "items" in option:
                yield from walk(_follow(option["items"], root), root, f"{here}[]")


def describe(entry: dict[str, Any], root: dict[str, Any]) -> str:
    """Return the description of a key; pydantic omits it where the referenced model has the same one."""
    return str(entry.get("description") or _follow(entry, root).get("description", ""))


def describe_type(entry: dict[str, Any], root: dict[str, Any]) -> str:
    """Return type, bounds and default of a key in a few words."""
    options = entry.get("anyOf") or entry.get("oneOf") or [entry]
    words = [_type(_follow(option, root)) for option in options]
    text = " or ".join(word for word in words if word != "null")
    if "default" in entry and not isinstance(entry["default"], dict | list):
        text += f", default {json.dumps(entry['default'])}"
    return text


def _type(option: dict[str, Any]) -> str:
    if "enum" in option:
        return "one of " + ", ".join(str(value) for value in option["enum"])
    if "const" in option:
        return str(option["const"])
    bounds = [text.format(option[name]) for name, text in _BOUNDS if name in option]
    return " ".join([option.get("type", "any"), ", ".join(bounds)]).strip()


def _follow(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    return root["$defs"][reference.rpartition("/")[2]] if reference else schema
