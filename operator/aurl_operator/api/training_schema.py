"""Load the generated JSON schemas of `dataset` and `training`."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


class SchemaMissingError(Exception):
    """The generated schema is missing from this installation."""


def load_schema() -> dict[str, Any]:
    """Return the schemas, keyed `dataset` and `training`. Raises SchemaMissingError."""
    path = resources.files("aurl_operator") / "schema" / "job.json"
    try:
        schemas = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SchemaMissingError(f"{path} is missing; run `make generate`.") from error
    missing = {"dataset", "training"} - set(schemas)
    if missing:
        raise SchemaMissingError(f"{path} has no {' and no '.join(sorted(missing))}; run `make generate`.")
    return dict(schemas)
