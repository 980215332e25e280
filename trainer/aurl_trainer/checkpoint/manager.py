"""Checkpoints on the volume: commit, verification, fallback and retention.

    checkpoints/step-00000200/   model.safetensors optimizer.safetensors ema.safetensors (with ema)
                                 state.json rank-*.json config.json
                                 manifest.json (sha256 and size of each)   COMMITTED (sha256 of the manifest)

Everything is written to `.tmp-…`, flushed, renamed and marked last; deletion removes the marker first. So a
directory with a marker is complete even if a writer dies at any point. Tensors are written by one rank as
safetensors and not by torch.distributed.checkpoint, which pickles its metadata: unpickling can run code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from aurl_trainer.checkpoint.layout import CHECKPOINT_NAME, MANIFEST, MARKER, STATE_FILE
from aurl_trainer.checkpoint.state import evaluated_loss
from aurl_trainer.checkpoint.tensorfile import safetensors_parts
from aurl_trainer.errors import CheckpointMismatchError, DamagedCheckpointError
from aurl_trainer.system.durable import (
    first_difference,
    json_bytes,
    remove_tree,
    sync_directory,
    write_durably,
    write_files,
    write_marker,
)

MODEL_FILE, OPTIMIZER_FILE, EMA_FILE = "model.safetensors", "optimizer.safetensors", "ema.safetensors"
FORMAT = 1
"""Version of the layout above; checkpoints of other versions are refused."""


@dataclass(frozen=True)
class Contents:
    """The contents of a checkpoint: tensors and JSON. Tensors may be sharded until `save` gathers them."""

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    state: Mapping[str, Any]
    config: Mapping[str, Any]
    ranks: list[str]
    """JSON text with the state of the random generators of each rank."""
    ema: Mapping[str, Tensor] = field(default_factory=dict)
    """Averaged weights, by the names of the weights; empty without an average."""

    @property
    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """All tensors, by the name of their file."""
        return {"model": self.model, "optimizer": self.optimizer, "ema": self.ema}

    def with_tensors(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> Contents:
        """Return the same contents with other `tensors`, such as copies."""
        return replace(self, model=tensors["model"], optimizer=tensors["optimizer"], ema=tensors["ema"])


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint, not necessarily verified."""

    step: int
    path: Path

    @property
    def saved_at(self) -> float:
        """Time of the commit in seconds since the epoch."""
        return (self.path / MARKER).stat().st_mtime

    def has(self, name: str) -> bool:
        """Return True if it has a file of this name."""
        return (self.path / name).is_file()

    def read_json(self, name: str) -> Any:
        """Load one of its JSON files. Raises DamagedCheckpointError if it cannot be read."""
        with self._reading(name, ValueError) as path:
            return json.loads(path.read_text())

    @contextmanager
    def open_tensors(self, name: str) -> Iterator[Any]:
        """Open one of its files with `safetensors.safe_open`, to read single tensors or slices.

        Raises DamagedCheckpointError if it cannot be read.
        """
        with self._reading(name, SafetensorError) as path, safe_open(path, framework="pt") as file:
            yield file

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """Load the tensors of one of its files. Raises DamagedCheckpointError if it cannot be read."""
        with self._reading(name, SafetensorError) as path:
            return load_file(path)

    @contextmanager
    def _reading(self, name: str, format_error: type[Exception]) -> Iterator[Path]:
        try:
            yield self.path / name
        except (OSError, format_error) as error:
            raise DamagedCheckpointError(f"{self.path.name}/{name} cannot be read: {error}.") from error


class CheckpointManager:
    """The checkpoints of a job in one directory. Only rank 0 writes; all ranks may read."""

    def __init__(
        self, directory: Path, *, keep_last: int = 3, keep_every_steps: int = 0, keep_best: int = 0
    ) -> None:
        self.directory = directory
        self.keep_last, self.keep_every_steps, self.keep_best = keep_last, keep_every_steps, keep_best
        self._damaged: set[int] = set()
        self._rankings: dict[int, tuple[float | None, bool]] = {}

    def all(self) -> list[Checkpoint]:
        """Return the committed checkpoints, oldest first."""
        if not self.directory.is_dir():
            return []
        found = []
        for path in self.directory.iterdir():
            match = CHECKPOINT_NAME.match(path.name)
            if match and (path / MARKER).is_file():
                found.append(Checkpoint(int(match.group(1)), path))
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def verify(self, checkpoint: Checkpoint) -> None:
        """Compare every file with the manifest, and the manifest with the marker.

        Raises DamagedCheckpointError naming the first file that differs, and CheckpointMismatchError if the
        checkpoint has another format.
        """
        name = checkpoint.path.name
        try:
            text = (checkpoint.path / MANIFEST).read_bytes()
            if hashlib.sha256(text).hexdigest() != (checkpoint.path / MARKER).read_text().strip():
                raise DamagedCheckpointError(f"{name}/{MANIFEST} does not match its {MARKER} marker.")
            manifest = json.loads(text)
            if manifest["format"] != FORMAT:
                raise CheckpointMismatchError(
                    f"{name} has format {manifest['format']} and this trainer reads format {FORMAT}; use the "
                    "trainer version that saved it, or give the job another name."
                )
            difference = first_difference(checkpoint.path, manifest["files"])
            if difference:
                raise DamagedCheckpointError(f"{name}/{difference}.")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedCheckpointError(f"{name} cannot be verified: {error}.") from error

    def latest(self, *, healthy_until: int | None = None) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest checkpoint that passes verification, and a sentence for each damaged newer one.

        With `healthy_until`, considers only healthy checkpoints up to this step.
        """
        complaints = []
        for checkpoint in reversed(self.all()):
            if healthy_until is not None and not (
                checkpoint.step <= healthy_until and self._ranking(checkpoint)[1]
            ):
                continue
            try:
                self.verify(checkpoint)
            except DamagedCheckpointError as error:
                self._damaged.add(checkpoint.step)
                complaints.append(str(error))
            else:
                return checkpoint, complaints
        return None, complaints

    def at(self, step: int) -> Checkpoint:
        """Return the checkpoint of a step, which need not exist."""
        return Checkpoint(step, self.directory / f"step-{step:08d}")

    def delete_after(self, step: int) -> None:
        """Delete all checkpoints after `step`, newest first, so that an interruption leaves no gap."""
        for checkpoint in reversed(self.all()):
            if checkpoint.step > step:
                self._remove(checkpoint)

    def clean(self) -> None:
        """Delete what dead writers left behind. Call on rank 0 only, before training."""
        if self.directory.is_dir():
            for path in self.directory.iterdir():
                if path.name.startswith(".tmp-") or (
                    CHECKPOINT_NAME.match(path.name) and not (path / MARKER).is_file()
                ):
                    remove_tree(path)

    def save(self, step: int, contents: Contents) -> Checkpoint:
        """Write, commit and return a checkpoint, then delete those that retention does not keep.

        On OSError (such as a full disk) nothing is left behind and all older checkpoints stay intact.
        """
        target = self.at(step)
        temporary = self.directory / f".tmp-{target.path.name}-{os.getpid()}"
        self.directory.mkdir(parents=True, exist_ok=True)
        remove_tree(temporary)
        try:
            temporary.mkdir()
            marker = self._write(temporary, step, contents)
            sync_directory(temporary)
            self._remove(target)  # from a previous run of this job, or damaged
            temporary.rename(target.path)
        except OSError:
            remove_tree(temporary)
            raise
        try:
            sync_directory(self.directory)
            write_marker(target.path / MARKER, marker)
        except OSError:
            self._damaged.add(step)  # in case that its marker cannot be removed either
            with suppress(OSError):
                self._remove(target)
            raise
        self._damaged.discard(step)
        self._rankings.pop(step, None)
        self._retain(step, contents.state["progress"])
        return target

    def _write(self, directory: Path, step: int, contents: Contents) -> str:
        """Write all files and the manifest, and return the sha256 of the manifest."""
        stamp = {"step": str(step)}
        parts = {
            MODEL_FILE: safetensors_parts(contents.model, stamp),
            OPTIMIZER_FILE: safetensors_parts(contents.optimizer, stamp),
            **({EMA_FILE: safetensors_parts(contents.ema, stamp)} if contents.ema else {}),
            STATE_FILE: [json_bytes(contents.state)],
            "config.json": [json_bytes(contents.config)],
            **{f"rank-{rank}.json": [text.encode()] for rank, text in enumerate(contents.ranks)},
        }
        manifest = {"format": FORMAT, "step": step, "files": write_files(directory, parts)}
        return write_durably(directory / MANIFEST, [json_bytes(manifest)])

    def _remove(self, checkpoint: Checkpoint) -> None:
        if checkpoint.path.exists():
            (checkpoint.path / MARKER).unlink(missing_ok=True)
            sync_directory(checkpoint.path)
            remove_tree(checkpoint.path)

    def _retain(self, newest: int, progress: Mapping[str, Any]) -> None:
        """Delete old checkpoints; step `newest` was just written with `progress`.

        Damaged checkpoints do not count towards retention, nor do those after `newest`, which this run will
        overwrite. Also kept are the newest checkpoint up to the last healthy step, for rollbacks, and that of
        `best_step`, if the end of training may need it.
        """
        intact = [c for c in self.all() if c.step not in self._damaged and c.step <= newest]
        best = {checkpoint.step for checkpoint in self.best(intact)[: self.keep_best]}
        last_healthy_step = progress.get("last_healthy_step", newest)
        healthy = next(
            (c.step for c in reversed(intact) if c.step <= last_healthy_step and self._ranking(c)[1]), None
        )
        kept = best | {healthy, progress.get("best_step")}
        for checkpoint in intact[: -self.keep_last]:
            permanent = self.keep_every_steps and checkpoint.step % self.keep_every_steps == 0
            if not permanent and checkpoint.step not in kept:
                self._remove(checkpoint)

    def best(self, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
        """Return the `checkpoints` whose step was evaluated, by ascending validation loss."""
        losses = [(loss, c.step, c) for c in checkpoints if (loss := self._ranking(c)[0]) is not None]
        return [checkpoint for _, _, checkpoint in sorted(losses, key=lambda entry: entry[:2])]

    def _ranking(self, checkpoint: Checkpoint) -> tuple[float | None, bool]:
        """Return the evaluated loss of a checkpoint, and True if it was healthy: saved without open findings.

        (None, False) if its state cannot be read, which is reported when the checkpoint is loaded.
        """
        if checkpoint.step not in self._rankings:
            try:
                state = checkpoint.read_json(STATE_FILE)
                ranking = evaluated_loss(state), bool(state.get("progress", {}).get("healthy", True))
            except DamagedCheckpointError:
                ranking = None, False
            self._rankings[checkpoint.step] = ranking
        return self._rankings[checkpoint.step]
