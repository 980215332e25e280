"""The average of the last checkpoints, which often predicts better than the last (Izmailov et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from aurl_trainer.checkpoint.manager import Checkpoint
from aurl_trainer.errors import UserError
from aurl_trainer.export.saved_model import SavedModel, WeightsKind, from_checkpoint


def average(checkpoints: Sequence[Checkpoint], kind: WeightsKind | None = None) -> SavedModel:
    """Return a model with the mean weights of verified checkpoints of one training, summed in float64.

    `kind` is that of `from_checkpoint`, applied to the newest. Raises UserError if the checkpoints belong to
    different trainings.
    """
    newest = from_checkpoint(checkpoints[-1], kind)
    sums: dict[str, Tensor] = {name: tensor.double() for name, tensor in newest.weights.items()}
    for checkpoint in checkpoints[:-1]:
        other = from_checkpoint(checkpoint, newest.kind)
        if other.identity != newest.identity:
            raise UserError(
                f"{checkpoint.path.name} is of another model, vocabulary or dataset than "
                f"{checkpoints[-1].path.name}; their weights cannot be averaged."
            )
        for name, tensor in other.weights.items():
            sums[name] += tensor
    weights = {
        name: torch.div(total, len(checkpoints)).to(newest.weights[name].dtype)
        for name, total in sums.items()
    }
    return replace(newest, weights=weights, steps=[checkpoint.step for checkpoint in checkpoints])
