"""Job files as the command line takes them: read, changed by --set, checked, resolved."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aurl_trainer.config import JobFile
from aurl_trainer.errors import UserError


@dataclass(frozen=True)
class LocalJob:
    """A checked job: its name, its configuration and how many ranks it asks for."""

    name: str
    config: JobFile
    processes: int


def read_job(path: Path, changes: Sequence[str] = ()) -> LocalJob:
    """Read a job file or a bare file of `dataset` and `training`, and apply `changes` (`training.steps=50`).

    Raises UserError with a sentence per fault, each with its path in the file.
    """
    document = _read(path)
    whole = isinstance(document, dict) and document.get("kind") == "AurlTrainingJob"
    spec = document.get("spec") if whole else document
    for change in changes:
        _apply(spec, change)
    config = JobFile.parse(document, str(path))
    metadata = document.get("metadata") if whole else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    nodes, procs = (_count(path, spec, key) if whole else 1 for key in ("numNodes", "numProcPerNode"))
    return LocalJob(_safe_name(str(name or path.stem)), config, nodes * procs)


def resolved(config: JobFile) -> dict[str, Any]:
    """Return the configuration with every default filled in, under the keys of YAML."""
    return config.model_dump(mode="json", by_alias=True)


def as_given(config: JobFile) -> dict[str, Any]:
    """Return the keys that the user has set; a default may depend on whether it was written down."""
    return config.model_dump(mode="json", by_alias=True, exclude_unset=True)


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"The job file {path} cannot be read: {error.strerror or error}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"The job file {path} is not valid YAML: {' '.join(str(error).split())}.") from None


def _apply(spec: Any, change: str) -> None:
    key, equals, text = change.partition("=")
    parts = key.removeprefix("spec.").split(".")
    if not equals or parts[0] not in ("dataset", "training") or len(parts) < 2:
        raise UserError(f"--set {change}: it must be KEY=VALUE with a key such as training.steps.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(
            f"--set {change}: the value is not valid YAML: {' '.join(str(error).split())}."
        ) from None
    for depth, part in enumerate(parts):
        if not isinstance(spec, dict):
            raise UserError(f"--set {change}: {'.'.join(parts[:depth]) or 'the job file'} holds no keys.")
        if depth == len(parts) - 1:
            spec[part] = value
        else:
            # `key:` without anything below it is None in YAML.
            spec[part] = spec.get(part) if spec.get(part) is not None else {}
            spec = spec[part]


def _count(path: Path, spec: Any, key: str) -> int:
    value = spec.get(key, 1) if isinstance(spec, dict) else 1
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(
            f"The job file {path} is not valid.\nspec.{key}: must be an integer of at least 1, not {value!r}."
        )
    return value


def _safe_name(name: str) -> str:
    """Return `name` as one path component."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "job"
