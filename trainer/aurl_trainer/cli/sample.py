"""`aurl-trainer sample`: music from a checkpoint, as files or as one line of JSON."""

from __future__ import annotations

import argparse
import base64
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from aurl_trainer.checkpoint.manager import CheckpointManager
from aurl_trainer.cli.jobfile import parse_override
from aurl_trainer.data.music import Ints
from aurl_trainer.data.vocabulary import Vocabulary
from aurl_trainer.errors import UserError
from aurl_trainer.export.saved_model import EXPORT, SavedModel, from_checkpoint, open_model
from aurl_trainer.model.vae import VAE
from aurl_trainer.sampling.api import SampleFile, sample_to_files
from aurl_trainer.sampling.config import SamplingConfig
from aurl_trainer.sampling.generate import LanguageModel
from aurl_trainer.sampling.latent import (
    BlendSource,
    LatentSampler,
    LatentSource,
    PriorSource,
    VariationSource,
    posterior_means,
    sampler,
)
from aurl_trainer.sampling.prompt import midi_prompt
from aurl_trainer.schema import explain


def run(options: argparse.Namespace) -> int:
    """Sample pieces into files, or print them as JSON, which keeps files only with `--output`."""
    saved, home = choose_model(options)
    training = saved.configuration["training"]
    config = _sampling(training["sample"], options)
    prompt = None
    if options.prompt is not None:
        prompt = _tokens("--prompt", options.prompt, saved.vocabulary, options.prompt_quarters)
        config = config.model_copy(update={"max_tokens": len(prompt) + config.max_tokens})
    model = _language_model(options, saved, config, int(training["contextLength"]))
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.output or (
            Path(scratch) if options.json else home / "samples" / f"step-{saved.step:08d}"
        )
        try:
            files = sample_to_files(
                model,
                saved.vocabulary,
                config,
                folder,
                context_length=int(training["contextLength"]),
                title=f"{saved.job}, step {saved.step}",
                origin={"job": saved.job, "step": saved.step, **_latent_origin(options)},
                prompt=prompt,
            )
        except OSError as error:
            raise UserError(f"The samples cannot be written to {folder}: {error.strerror}.") from None
        if options.json:
            print(json.dumps({"step": saved.step, "samples": [_packed(file) for file in files]}))
        else:
            for file in files:
                print(f"{file.midi}  {file.picture}  {file.notes} notes")
    return 0


def choose_model(options: argparse.Namespace) -> tuple[SavedModel, Path]:
    """Return the model that `--checkpoint` or `--job-dir` names, and the directory of its job or export."""
    if options.checkpoint is not None:
        path: Path = options.checkpoint.absolute()
        return open_model(path, options.weights), path if (path / EXPORT).exists() else path.parent.parent
    job_dir = options.job_dir.absolute()
    newest, complaints = CheckpointManager(job_dir / "checkpoints").latest()
    for complaint in complaints:
        print(f"aurl-trainer: skipping a damaged checkpoint: {complaint}", file=sys.stderr)
    if newest is None:
        raise UserError(f"{options.job_dir} has no complete checkpoint; train first.")
    return from_checkpoint(newest, options.weights), job_dir


def _sampling(saved: dict[str, Any], options: argparse.Namespace) -> SamplingConfig:
    """Return the job's `training.sample`, overridden by the command line."""
    changes = {"count": max(1, saved["count"])}
    for change in options.changes:
        key, value = parse_override(change, "temperature")
        changes[key] = value
    changes |= {key: getattr(options, key) for key in ("count", "seed") if getattr(options, key) is not None}
    try:
        return SamplingConfig.model_validate(saved | changes)
    except ValidationError as error:
        raise UserError(explain(error, "sample")) from None


def _language_model(
    options: argparse.Namespace, saved: SavedModel, config: SamplingConfig, context_length: int
) -> LanguageModel:
    """Return the model to generate with; for an autoencoder, one with the latents that the options select."""
    model, spread = saved.model(), 1.0 if options.spread is None else float(options.spread)
    asked = next((name for name in ("vary", "blend", "spread") if getattr(options, name) is not None), None)
    if asked is None:
        return sampler(model, config.seed)
    if not isinstance(model, VAE):
        mode = saved.configuration["training"]["mode"]
        raise UserError(
            f"--{asked} needs a model with latents (mode vae or vae-gan); this model's mode is {mode}."
        )
    if not 0 <= spread <= 100:
        raise UserError(f"--spread {spread:g}: must be from 0 to 100.")
    model.eval()  # encode without dropout

    def piece(path: Path) -> Tensor:
        tokens = _tokens(f"--{asked}", path, saved.vocabulary)[:context_length]
        return torch.from_numpy(tokens)[None]

    source: LatentSource
    if options.vary is not None:
        source = VariationSource(model, piece(options.vary), config.seed, spread)
    elif options.blend is not None:
        if options.spread is not None:
            raise UserError("--spread has no effect with --blend: remove it.")
        first, second = (posterior_means(model, piece(path)) for path in options.blend)
        source = BlendSource(first, second, np.linspace(0.0, 1.0, config.count).tolist())
    else:
        source = PriorSource(model, config.seed, spread)
    return LatentSampler(model, source)


def _latent_origin(options: argparse.Namespace) -> dict[str, Any]:
    """Return the origin of the latents, for the MIDI file: file names without their directories."""
    origin: dict[str, Any] = {}
    if options.vary is not None:
        origin["variationOf"] = options.vary.name
    if options.blend is not None:
        origin["blendOf"] = [path.name for path in options.blend]
    if options.spread is not None:
        origin["spread"] = options.spread
    return origin


def _tokens(option: str, path: Path, vocabulary: Vocabulary, quarters: float | None = None) -> Ints:
    try:
        return midi_prompt(path.read_bytes(), str(path), vocabulary, quarters)
    except OSError as error:
        raise UserError(f"{option} {path} cannot be read: {error.strerror}.") from None


def _packed(file: SampleFile) -> dict[str, Any]:
    return {
        "midi": base64.b64encode(file.midi.read_bytes()).decode(),
        "png": base64.b64encode(file.picture.read_bytes()).decode(),
        "notes": file.notes,
        "tokens": file.tokens,
    }
