"""Small linear predictors on the latents, trained with the model by the terms about bars."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import torch
from torch import Tensor, nn

from aurl_trainer.data.vocabulary import Vocabulary
from aurl_trainer.errors import UserError
from aurl_trainer.model.config import LatentConfig


class LatentHeads(nn.Module):
    """A linear map for each wanted term, by the name of the term."""

    def __init__(self, latents: LatentConfig, vocabulary: Vocabulary, wanted: Collection[str]) -> None:
        """Create the maps of `wanted`. Raises UserError if a term needs tokens the vocabulary lacks."""
        super().__init__()
        positions = vocabulary.count["Position"]
        if "bar_onsets" in wanted and not positions:
            raise UserError(
                "training.losses.barOnsets needs an encoding with position tokens: leave it out or use remi."
            )
        sizes = {
            "bar_content": (latents.size, vocabulary.size),
            "bar_onsets": (latents.size, positions),
            "bar_density": (latents.size, 1),
            "bar_prediction": (latents.bar_size, latents.bar_size),
        }
        self.maps = nn.ModuleDict({name: nn.Linear(*size) for name, size in sizes.items() if name in wanted})

    def initialise(self, seed: int) -> None:
        """Initialise all weights from the seed alone."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for module in self.maps.values():
                linear = cast(nn.Linear, module)
                shape, scale = linear.weight.shape, linear.in_features**-0.5
                linear.weight.copy_(torch.empty(shape).normal_(0.0, scale, generator=generator))
                linear.bias.zero_()

    def predict(self, term: str, values: Tensor) -> Tensor:
        """Return the prediction of a term's head, in fp32."""
        predicted: Tensor = self.maps[term](values)
        return predicted.float()
