"""The differences between two checkpoints or exports, in JSON values and tensors."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from aurl_trainer.checkpoint.state import flatten
from aurl_trainer.errors import UserError

ABOUT_FILES: Final = {"manifest.json", "export.json"}
"""Files that only describe the others and are not compared."""


@dataclass(frozen=True)
class ValueDifference:
    """A value of a JSON file that differs; None on a side without it."""

    file: str
    key: str
    a: Any
    b: Any


@dataclass(frozen=True)
class TensorDifference:
    """A tensor that differs, with the maximum and root mean square of a − b, or why it cannot be compared.

    `max` and `rms` are None if they are not finite or there is a `reason`.
    """

    file: str
    name: str
    max: float | None = None
    rms: float | None = None
    reason: str | None = None


@dataclass
class Comparison:
    """All differences, and the number of bitwise equal tensors."""

    values: list[ValueDifference] = field(default_factory=list)
    tensors: list[TensorDifference] = field(default_factory=list)
    equal_tensors: int = 0

    @property
    def equal(self) -> bool:
        """True if nothing differs."""
        return not self.values and not self.tensors

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        return {"equal": self.equal, **asdict(self)}


def compare(a: Path, b: Path) -> Comparison:
    """Compare two directories of checkpoints or exports, tensor by tensor. Raises UserError."""
    found = Comparison()
    for folder in (a, b):
        if not folder.is_dir() or not any(folder.glob("*.safetensors")):
            raise UserError(f"{folder} is neither a checkpoint nor an export: it has no safetensors file.")
    for name in sorted({path.name for folder in (a, b) for path in folder.glob("*.json")} - ABOUT_FILES):
        _compare_values(name, _values(a / name), _values(b / name), found)
    for name in sorted({path.name for folder in (a, b) for path in folder.glob("*.safetensors")}):
        _compare_tensors(a / name, b / name, found)
    return found


def _values(path: Path) -> dict[str, Any]:
    try:
        return flatten(json.loads(path.read_text())) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


def _compare_values(file: str, a: dict[str, Any], b: dict[str, Any], found: Comparison) -> None:
    for key in sorted(a.keys() | b.keys()):
        if key not in a or key not in b or a[key] != b[key]:
            found.values.append(ValueDifference(file, key, a.get(key), b.get(key)))


def _compare_tensors(a: Path, b: Path, found: Comparison) -> None:
    if not a.exists() or not b.exists():
        missing = a if not a.exists() else b
        found.tensors.append(TensorDifference(a.name, "*", reason=f"{missing} does not exist"))
        return
    try:
        with safe_open(a, "pt") as first, safe_open(b, "pt") as second:
            mine, theirs = set(first.keys()), set(second.keys())
            for name in sorted(mine | theirs):
                if name not in mine or name not in theirs:
                    where = a if name in mine else b
                    found.tensors.append(TensorDifference(a.name, name, reason=f"only in {where}"))
                    continue
                difference = _differ(a.name, name, first.get_tensor(name), second.get_tensor(name))
                if difference is None:
                    found.equal_tensors += 1
                else:
                    found.tensors.append(difference)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{a} and {b} cannot be compared: {error}.") from error


def _differ(file: str, name: str, a: Tensor, b: Tensor) -> TensorDifference | None:
    if a.shape != b.shape or a.dtype != b.dtype:
        text = f"{tuple(a.shape)} {a.dtype} and {tuple(b.shape)} {b.dtype}"
        return TensorDifference(file, name, reason=text)
    if _bytes(a).equal(_bytes(b)):  # so NaN equals itself
        return None
    distance = a.double() - b.double()
    largest, square = float(distance.abs().max()), float(distance.square().mean())
    if not math.isfinite(largest):
        return TensorDifference(file, name)
    return TensorDifference(file, name, largest, math.sqrt(square))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)
