"""Weights over a job, and invalid settings of the losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aurl_trainer.config import JobFile
from aurl_trainer.errors import UserError
from aurl_trainer.losses.config import LossesConfig, TermConfig, weight_at
from aurl_trainer.losses.weighted import WeightedTerms

DATASET: dict[str, Any] = {"source": {"directory": {"path": "midi"}}}


@pytest.mark.parametrize(
    ("term", "weights"),
    [
        ({"weight": 2}, [2, 2, 2, 2, 2, 2, 2, 2]),
        ({"weight": 2, "start": 0.5}, [0, 0, 0, 0, 2, 2, 2, 2]),
        ({"weight": 2, "ramp": 1}, [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75]),
        ({"weight": 2, "ramp": 0.5}, [0, 0.5, 1, 1.5, 2, 2, 2, 2]),
        ({"weight": 2, "ramp": 0.5, "cycles": 2}, [0, 1, 2, 2, 0, 1, 2, 2]),
        ({"weight": 2, "start": 0.5, "ramp": 1}, [0, 0, 0, 0, 0, 0.5, 1, 1.5]),
        ({"weight": 2, "start": 1}, [0] * 8),
    ],
)
def test_weights_over_a_job(term: dict[str, float], weights: list[float]) -> None:
    config = TermConfig.model_validate(term)
    assert [weight_at(config, step, 8) for step in range(1, 9)] == pytest.approx(weights)


@pytest.mark.parametrize(
    ("term", "steps"),
    [
        ({"weight": 2, "start": 0.5}, [1, 51]),
        ({"weight": 2, "start": 0.5, "ramp": 0.5}, [1, 52]),
        ({"weight": 2, "start": 0.5, "ramp": 0.5, "cycles": 2}, [1, 52, 76, 77]),
        ({"weight": 2, "ramp": 1}, [1, 2]),
        ({"weight": 0, "start": 0.5}, [1]),
    ],
)
def test_steps_in_which_a_weight_jumps(term: dict[str, float], steps: list[int]) -> None:
    config = LossesConfig.model_validate({"logitScale": term})
    terms = WeightedTerms(config, ["reconstruction_pitch", "logit_scale"], 100, torch.device("cpu"))
    assert [step for step in range(1, 101) if terms.weight_jumps_at(step)] == steps


def test_defaults_are_plain_for_the_transformer_alone() -> None:
    assert LossesConfig().plain("transformer")
    assert not LossesConfig().plain("vae")
    assert not LossesConfig.model_validate({"reconstructionPitch": {"weight": 2}}).plain("transformer")
    assert not LossesConfig(balance="uncertainty").plain("transformer")


@pytest.mark.parametrize(
    ("training", "complaint"),
    [
        ({"losses": {"klBar": {"weight": 1}}}, "training: losses.klBar has no effect in mode transformer"),
        ({"losses": {"freeBits": 0}}, "training: losses.freeBits has no effect in mode transformer"),
        ({"losses": {"barKl": {}}}, "training.losses.barKl: unknown key"),
        (
            {"mode": "vae", "losses": {"featureMatching": {"weight": 1}}},
            "training: losses.featureMatching has no effect in mode vae",
        ),
        (
            {"mode": "vae", "distribution": {"strategy": "fsdp"}},
            "training: distribution.strategy fsdp supports only mode transformer with its plain loss",
        ),
        (
            {"losses": {"dropoutConsistency": {"weight": 1}}},
            "training: losses.dropoutConsistency compares two passes with dropout: set model.dropout above 0",
        ),
        ({"model": {"latents": {"barSize": 8}}}, "training: model.latents has no effect in mode transformer"),
        (
            {"mode": "vae", "model": {"critic": {"width": 8}}},
            "training: model.critic has no effect in mode vae",
        ),
        (
            {"mode": "vae", "model": {"latents": {"bars": 9}}},
            "training.model.latents: bars 9 must be a multiple of barsPerPhrase 4",
        ),
        (
            {"model": {"attention": {"window": 8}}},
            "training.model.attention: window has no effect with kind full",
        ),
    ],
)
def test_faults_are_reported_with_their_path(training: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError) as error:
        JobFile.parse({"dataset": DATASET, "training": training}, "job.yaml")
    assert complaint in str(error.value)


def test_a_loss_without_reconstruction_is_refused() -> None:
    names = [name for name in LossesConfig.model_fields if name.startswith("reconstruction_")]
    nothing = {str(LossesConfig.model_fields[name].alias): {"weight": 0} for name in names}
    with pytest.raises(UserError, match="nothing would be learned"):
        JobFile.parse({"dataset": DATASET, "training": {"losses": nothing}}, "job.yaml")
