"""A model as it is used after training: weights, configuration and vocabulary.

It is read from a checkpoint, or from an export folder, which can be moved anywhere:

    <folder>/   model.safetensors   config.json (`dataset` and `training`)   vocabulary.json
                export.json (job, steps, which weights, identity; sha256 and size of each file)
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from aurl_trainer.checkpoint.manager import EMA_FILE, MODEL_FILE, Checkpoint, CheckpointManager
from aurl_trainer.checkpoint.tensorfile import safetensors_parts
from aurl_trainer.data.shards import VOCABULARY
from aurl_trainer.data.vocabulary import Vocabulary
from aurl_trainer.errors import DamagedCheckpointError, UserError
from aurl_trainer.model.config import ModelConfig
from aurl_trainer.model.transformer import Transformer
from aurl_trainer.model.vae import VAE
from aurl_trainer.system.durable import (
    first_difference,
    json_bytes,
    remove_tree,
    sync_directory,
    write_durably,
    write_files,
)

EXPORT: Final = "export.json"
CONFIG: Final = "config.json"
FORMAT: Final = 1

WeightsKind = Literal["trained", "ema"]
"""Which weights of a checkpoint: those that are trained on, or their moving average."""


@dataclass(frozen=True)
class SavedModel:
    """Everything that sampling needs; `steps` are the checkpoints that the weights come from."""

    job: str
    steps: list[int]
    kind: WeightsKind
    weights: Mapping[str, Tensor]
    configuration: Mapping[str, Any]
    """`dataset` and `training` as they were resolved."""
    identity: Mapping[str, Any]
    vocabulary: Vocabulary

    @property
    def step(self) -> int:
        """The newest step that went into the weights."""
        return max(self.steps)

    def model(self) -> Transformer | VAE:
        """Make the model with these weights, on the CPU."""
        training = self.configuration["training"]
        kind = Transformer if training["mode"] == "transformer" else VAE
        model = kind(ModelConfig.model_validate(training["model"]), self.vocabulary.size)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(self.weights[name])
        return model

    def write(self, folder: Path) -> None:
        """Write an export folder, all of it or nothing.

        Raises UserError when there is something at `folder` already or it cannot be written.
        """
        folder = folder.absolute()
        if folder.exists():
            raise UserError(f"There is something at {folder} already; give --output a new place.")
        temporary = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
        try:
            temporary.mkdir(parents=True)
            self._write_files(temporary)
            sync_directory(temporary)
            temporary.rename(folder)
            sync_directory(folder.parent)
        except OSError as error:
            raise UserError(f"The export {folder} cannot be written: {error.strerror}.") from None
        finally:
            remove_tree(temporary)

    def _write_files(self, folder: Path) -> None:
        contents = {
            MODEL_FILE: safetensors_parts(self.weights, {"step": str(self.step)}),
            CONFIG: [json_bytes(self.configuration)],
            VOCABULARY: [self.vocabulary.to_json().encode()],
        }
        about = {
            "format": FORMAT,
            "job": self.job,
            "steps": self.steps,
            "weights": self.kind,
            "identity": self.identity,
            "files": write_files(folder, contents),
        }
        write_durably(folder / EXPORT, [json_bytes(about)])


def open_model(path: Path, kind: WeightsKind | None = None) -> SavedModel:
    """Read the model at `path`: an export folder, or a checkpoint in its job's directory, verified.

    `kind` is as for `from_checkpoint`. Raises UserError when there is none or it is damaged.
    """
    path = path.absolute()
    if (path / EXPORT).is_file():
        return _from_export(path, kind)
    manager = CheckpointManager(path.parent)
    for checkpoint in manager.all():
        if checkpoint.path.name == path.name:
            try:
                manager.verify(checkpoint)
                return from_checkpoint(checkpoint, kind)
            except DamagedCheckpointError as error:
                raise UserError(f"The checkpoint is damaged: {error} Choose another one.") from None
    raise UserError(f"{path} is neither a complete checkpoint nor an export.")


def from_checkpoint(checkpoint: Checkpoint, kind: WeightsKind | None = None) -> SavedModel:
    """Return the model of a verified checkpoint; without a `kind` the average, where it has one.

    Raises UserError when it has no average and that is asked for, or when its vocabulary is not where the job
    keeps it; DamagedCheckpointError when it cannot be read.
    """
    state = checkpoint.read_json("state.json")
    identity, job_dir = state["identity"], checkpoint.path.parent.parent
    has_average = checkpoint.has(EMA_FILE)
    if kind == "ema" and not has_average:
        raise UserError(
            f"{checkpoint.path.name} has no averaged weights: it was trained without training.ema."
        )
    chosen: WeightsKind = kind or ("ema" if has_average else "trained")
    vocabulary = Vocabulary.load(job_dir / "dataset" / identity["dataset"] / VOCABULARY)
    if vocabulary.fingerprint != identity["vocabulary"]:
        raise UserError(
            f"The dataset beside {checkpoint.path.name} has another vocabulary than it was trained with."
        )
    return SavedModel(
        job=job_dir.name,
        steps=[checkpoint.step],
        kind=chosen,
        weights=checkpoint.read_tensors(EMA_FILE if chosen == "ema" else MODEL_FILE),
        configuration=checkpoint.read_json(CONFIG),
        identity=identity,
        vocabulary=vocabulary,
    )


def _from_export(path: Path, kind: WeightsKind | None) -> SavedModel:
    try:
        about = json.loads((path / EXPORT).read_text())
        if about["format"] != FORMAT:
            raise UserError(
                f"The export {path} has format {about['format']} and this trainer reads format {FORMAT}; "
                "export the checkpoint again."
            )
        difference = first_difference(path, about["files"])
        if difference:
            raise UserError(f"The export {path} is damaged: {difference}; export the checkpoint again.")
        if kind is not None and kind != about["weights"]:
            raise UserError(f"The export {path} holds the {about['weights']} weights only.")
        return SavedModel(
            job=about["job"],
            steps=about["steps"],
            kind=about["weights"],
            weights=load_file(path / MODEL_FILE),
            configuration=json.loads((path / CONFIG).read_text()),
            identity=about["identity"],
            vocabulary=Vocabulary.load(path / VOCABULARY),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(f"The export {path} cannot be read: {error}.") from error
