"""`aurl-trainer checkpoints list|verify|export|average|diff`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from aurl_trainer.checkpoint.compare import Comparison, compare
from aurl_trainer.checkpoint.manager import Checkpoint, CheckpointManager
from aurl_trainer.checkpoint.state import evaluated_loss
from aurl_trainer.errors import DamagedCheckpointError, UserError
from aurl_trainer.export.averaging import average
from aurl_trainer.export.saved_model import SavedModel, from_checkpoint, open_model

WIDEST_VALUE = 60


def show(options: argparse.Namespace, *, verified: bool = False) -> int:
    """List the checkpoints of a job; returns 1 if one is damaged."""
    manager = _manager(options.job_dir)
    checkpoints = manager.all()
    best = {checkpoint.step for checkpoint in manager.best(checkpoints)[:1]}
    entries: list[dict[str, Any]] = []
    for checkpoint in checkpoints:
        entry: dict[str, Any] = {"step": checkpoint.step, "path": str(checkpoint.path)}
        try:
            if verified:
                manager.verify(checkpoint)
            files = checkpoint.read_json("manifest.json")["files"]
            entry["sha256"] = files["model.safetensors"]["sha256"]
            entry["bytes"] = sum(file["bytes"] for file in files.values())
            entry["validation_loss"] = evaluated_loss(checkpoint.read_json("state.json"))
            entry["best"] = checkpoint.step in best
            entry["damage"] = None
        except (DamagedCheckpointError, KeyError, TypeError) as error:
            entry.update(sha256=None, bytes=None, validation_loss=None, best=False, damage=str(error))
        entries.append(entry)
    if options.json:
        print(json.dumps({"checkpoints": entries}))
    else:
        _print_list(entries, manager.directory, verified=verified)
    return 1 if any(entry["damage"] for entry in entries) else 0


def verify(options: argparse.Namespace) -> int:
    """List the checkpoints of a job, checking every file against its sha256; returns 1 if one is damaged."""
    return show(options, verified=True)


def export(options: argparse.Namespace) -> int:
    """Write one checkpoint as a self-contained directory."""
    if options.checkpoint is not None:
        model = open_model(options.checkpoint, options.weights)
    else:
        model = from_checkpoint(_undamaged(options.job_dir, 1)[0], options.weights)
    return _write(model, options.output)


def export_average(options: argparse.Namespace) -> int:
    """Write the mean of the newest checkpoints as a self-contained directory."""
    return _write(average(_undamaged(options.job_dir, options.last), options.weights), options.output)


def diff(options: argparse.Namespace) -> int:
    """Print the differences between two checkpoints or exports; returns 1 if there are any."""
    found = compare(options.a, options.b)
    if options.json:
        print(json.dumps(found.to_json()))
    else:
        _print_differences(found)
    return 0 if found.equal else 1


def _manager(job_dir: Path) -> CheckpointManager:
    if not job_dir.is_dir():
        raise UserError(f"The job's directory {job_dir} does not exist.")
    return CheckpointManager(job_dir.absolute() / "checkpoints")


def _undamaged(job_dir: Path, count: int) -> list[Checkpoint]:
    """Return the newest `count` checkpoints that pass verification, oldest first.

    Raises UserError if there are fewer.
    """
    manager, found = _manager(job_dir), list[Checkpoint]()
    for checkpoint in reversed(manager.all()):
        if len(found) == count:
            break
        try:
            manager.verify(checkpoint)
            found.append(checkpoint)
        except DamagedCheckpointError as error:
            print(f"aurl-trainer: skipping a damaged checkpoint: {error}", file=sys.stderr)
    if len(found) < count:
        raise UserError(f"{manager.directory} has {len(found)} undamaged checkpoints; {count} are needed.")
    return found[::-1]


def _write(model: SavedModel, output: Path) -> int:
    model.write(output)
    steps = ", ".join(str(step) for step in model.steps)
    print(f"{output}: the {model.kind} weights of {model.job}, step {steps}")
    return 0


def _print_list(entries: list[dict[str, Any]], directory: Path, *, verified: bool) -> None:
    if not entries:
        print(f"no complete checkpoints in {directory}", file=sys.stderr)
    for entry in entries:
        if entry["damage"]:
            print(f"step {entry['step']:>9}  DAMAGED  {entry['damage']}")
            continue
        loss = entry["validation_loss"]
        best = " best" if entry["best"] else "     "
        validation = "" if loss is None else f"validation {loss:.4f}{best}  "
        print(
            f"step {entry['step']:>9}  {'verified  ' * verified}{entry['bytes'] / 2**20:8.1f} MiB  "
            f"{validation}sha256 {entry['sha256'][:16]}…  {entry['path']}"
        )


def _print_differences(found: Comparison) -> None:
    for value in found.values:
        print(f"{value.file}  {value.key}: {_short(value.a)} → {_short(value.b)}")
    for tensor in found.tensors:
        numbers = f"max {_number(tensor.max)}, rms {_number(tensor.rms)}"
        print(f"{tensor.file}  {tensor.name}: {tensor.reason or numbers}")
    print(
        f"{found.equal_tensors} tensors are equal; "
        f"{len(found.tensors)} tensors and {len(found.values)} values differ"
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= WIDEST_VALUE else f"{text[: WIDEST_VALUE - 1]}…"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"
