"""Job files on the command line: read, overridden by --set, validated, resolved."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aurl_trainer.config import JobFile, read_document
from aurl_trainer.errors import UserError


@dataclass(frozen=True)
class LocalJob:
    """A validated job: its name, its configuration and its number of ranks."""

    name: str
    config: JobFile
    processes: int


def read_job(path: Path, changes: Sequence[str] = ()) -> LocalJob:
    """Read a job file or a bare file of `dataset` and `training`, and apply `changes` (`training.steps=50`).

    Raises UserError with one sentence per error, each with its path in the file.
    """
    document = read_document(path)
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
    """Return the configuration with all defaults, under the keys of YAML."""
    return config.model_dump(mode="json", by_alias=True)


def as_given(config: JobFile) -> dict[str, Any]:
    """Return only the keys the user set; some defaults depend on whether another key was set."""
    return config.model_dump(mode="json", by_alias=True, exclude_unset=True)


def parse_override(change: str, example: str) -> tuple[str, Any]:
    """Split the `KEY=VALUE` of a `--set` and load the value as YAML. Raises UserError naming `example`."""
    key, equals, text = change.partition("=")
    if not equals:
        raise UserError(f"--set {change}: write KEY=VALUE, with a key such as {example}.")
    try:
        return key, yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--set {change}: the value is not valid YAML: {reason}.") from None


def _apply(spec: Any, change: str) -> None:
    key, value = parse_override(change, "training.steps")
    parts = key.removeprefix("spec.").split(".")
    if parts[0] not in ("dataset", "training") or len(parts) < 2:
        raise UserError(f"--set {change}: the key must be below dataset or training, such as training.steps.")
    for depth, part in enumerate(parts):
        if not isinstance(spec, dict):
            raise UserError(f"--set {change}: {'.'.join(parts[:depth]) or 'the job file'} has no keys.")
        if depth == len(parts) - 1:
            spec[part] = value
        else:
            # YAML reads `key:` with nothing below it as None.
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
    """Return `name` with everything but letters, digits and ._- replaced: a single path component."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "job"
