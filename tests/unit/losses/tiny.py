"""Small models, and random batches with bars, for the tests of models and losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aurl_trainer.config import TrainingConfig
from aurl_trainer.data.config import TokenizerConfig
from aurl_trainer.data.loader import IGNORED
from aurl_trainer.data.vocabulary import BAR, KINDS, PAD, Vocabulary
from aurl_trainer.losses.config import TERMS, LossesConfig, Mode, belongs
from aurl_trainer.model.transformer import token_loss_sum
from aurl_trainer.objective.choice import make_model, make_objective
from aurl_trainer.objective.objective import Objective

CPU = torch.device("cpu")
VOCABULARY = Vocabulary(
    TokenizerConfig(
        positions_per_quarter=4,
        max_duration_quarters=2,
        tracks=2,
        tempo_bins=3,
        velocity_bins=3,
        lowest_pitch=60,
        highest_pitch=66,
    )
)
LATENTS = {"bars": 8, "barsPerPhrase": 4, "barSize": 6, "phraseSize": 4, "globalSize": 3, "encoderLayers": 1}
MODEL: dict[str, Any] = {"dModel": 16, "layers": 2, "heads": 2}


def configuration(mode: Mode, *, losses: dict[str, Any] | None = None, **model: Any) -> TrainingConfig:
    """Return the training configuration of a small model."""
    parts: dict[str, Any] = dict(MODEL) | model
    if mode != "transformer":
        parts["latents"] = LATENTS | model.get("latents", {})
    if mode == "vae-gan":
        parts["critic"] = {"width": 8, "scales": 2} | model.get("critic", {})
    return TrainingConfig.model_validate({"mode": mode, "steps": 100, "model": parts, "losses": losses or {}})


def all_terms(mode: Mode) -> dict[str, Any]:
    """Return a configuration in which all terms of a mode are active from the first step."""
    fields = LossesConfig.model_fields
    return {
        str(fields[name].alias): {"weight": 1.0, "start": 0.0, "ramp": 0.0}
        for name in TERMS
        if belongs(name, mode)
    } | ({"freeBits": 0.0} if mode != "transformer" else {})


def objective(mode: Mode, *, losses: dict[str, Any] | None = None, **model: Any) -> Objective:
    """Return the objective of a mode over a small model."""
    config = configuration(mode, losses=losses, **model)
    return make_objective(config, make_model(config, VOCABULARY.size), VOCABULARY, token_loss_sum, CPU)


def batch(samples: int = 3, length: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return random inputs and targets with all kinds of tokens; the last of several samples is padded."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, VOCABULARY.size, (samples, length + 1), generator=generator)
    tokens[torch.rand(tokens.shape, generator=generator) < 1 / 6] = BAR
    one_of_each = [VOCABULARY.first[kind] for kind in KINDS[2:] if VOCABULARY.count[kind]][:length]
    tokens[0, 1 : 1 + len(one_of_each)] = torch.tensor(one_of_each)
    inputs, targets = tokens[:, :-1].clone(), tokens[:, 1:].clone()
    if samples > 1:
        inputs[-1, -4:], targets[-1, -5:] = PAD, IGNORED
    return inputs, targets
