"""Defensive parsers for objects that others wrote: malformed values read as absent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

#: Larger integers do not survive JSON readers that use doubles, nor int64 fields of the API.
LARGEST_INTEGER = 2**53


def dig(value: object, *path: str) -> Any:
    """Return the value under nested keys, or None if a key is missing or its owner is not a mapping."""
    for key in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def mapping(value: object) -> Mapping[str, Any]:
    """Return the value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def items(value: object) -> list[Mapping[str, Any]]:
    """Return the mappings in a list; empty if the value is not a list."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def text(value: object, limit: int = 1024) -> str:
    """Return a string cut to `limit` characters, or an empty one if the value is not a string."""
    if not isinstance(value, str):
        return ""
    value = value.strip()
    return value if len(value) <= limit else value[: limit - 1] + "…"


def integer(value: object, low: int = 0, high: int = LARGEST_INTEGER) -> int | None:
    """Return an integer within bounds, also from decimal digits as in labels, or None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        if not (value.isascii() and value.isdigit() and len(value) < 18):
            return None
        value = int(value)
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and low <= value <= high else None


def number(value: object) -> float | None:
    """Return a finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        return None
    return float(value) if math.isfinite(value) else None
