"""A trained model for use: weights, configuration and vocabulary.

It is loaded from a checkpoint, or from an export directory, which can be moved anywhere:

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
"""The weights of a checkpoint to use: the trained ones or their moving average."""


@dataclass(frozen=True)
class SavedModel:
    """Everything needed for sampling; `steps` are those of the checkpoints that the weights come from."""

    job: str
    steps: list[int]
    kind: WeightsKind
    weights: Mapping[str, Tensor]
    configuration: Mapping[str, Any]
    """`dataset` and `training` with all defaults."""
    identity: Mapping[str, Any]
    vocabulary: Vocabulary

    @property
    def step(self) -> int:
        """Newest step of the weights."""
        return max(self.steps)

    def model(self) -> Transformer | VAE:
        """Create the model with these weights, on the CPU."""
        training = self.configuration["training"]
        kind = Transformer if training["mode"] == "transformer" else VAE
        model = kind(ModelConfig.model_validate(training["model"]), self.vocabulary.size)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(self.weights[name])
        return model

    def write(self, folder: Path) -> None:
        """Write an export directory atomically. Raises UserError if `folder` exists or is not writable."""
        folder = folder.absolute()
        if folder.exists():
            raise UserError(f"{folder} already exists; choose another --output.")
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
    """Load the model at `path`, verified: an export, or a checkpoint in its job's directory.

    `kind` is that of `from_checkpoint`. Raises UserError if there is no model or it is damaged.
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
    """Load the model of a verified checkpoint; `kind` defaults to the average, if it has one.

    Raises UserError if it has no average and `kind` is "ema", or if the job's dataset has no matching
    vocabulary; DamagedCheckpointError if it cannot be read.
    """
    state = checkpoint.read_json("state.json")
    identity, job_dir = state["identity"], checkpoint.path.parent.parent
    has_average = checkpoint.has(EMA_FILE)
    if kind == "ema" and not has_average:
        raise UserError(
            f"{checkpoint.path.name} has no averaged weights, because it was trained without training.ema; "
            "use the trained ones."
        )
    chosen: WeightsKind = kind or ("ema" if has_average else "trained")
    vocabulary = Vocabulary.load(job_dir / "dataset" / identity["dataset"] / VOCABULARY)
    if vocabulary.fingerprint != identity["vocabulary"]:
        raise UserError(
            f"The dataset of {checkpoint.path.name} has a different vocabulary than it was trained with; "
            "restore the dataset it was trained on."
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
            raise UserError(f"The export {path} has only the {about['weights']} weights.")
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
