"""The critic of mode `vae-gan`, which scores decoder states at several time scales, and latents.

Every layer has spectral norm 1 (Miyato et al. 2018), so that the critic is Lipschitz. The unnormalised
weights are the parameters; the singular vectors that estimate the norm are buffers, saved with them. Decoder
states are scored at full resolution and averaged over 4, 16 … steps, each by its own layers (multi-scale
discriminator, Wang et al. 2018, Kumar et al. 2019); latents are scored level by level.

Shapes: B samples, T tokens, C width of decoder states, N latents of a level, Z their dimensions.
"""

# ruff: noqa: N803, N806 - names carry shapes
from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from aurl_trainer.model.config import ModelConfig
from aurl_trainer.model.latents import LEVELS, Level

SLOPE = 0.2
POOL = 4


@dataclass(frozen=True)
class CriticOutput:
    """The scores and features of a batch at one scale."""

    scores: Tensor
    """(B, N): higher is more real."""
    weight: Tensor
    """(B, N): weight of each score; 0 for padding."""
    features: list[Tensor]
    """Activations of each hidden layer."""

    def mean(self, values: Tensor) -> Tensor:
        """Return the weighted mean of `values`, which have the shape of the scores."""
        return (values * self.weight).sum() / self.weight.sum().clamp(min=1e-6)


class SpectralConv(nn.Module):
    """A convolution over time whose weight is divided by its largest singular value.

    `refresh` takes one step of the power iteration; the loop calls it once per update. Forward passes do not,
    so that any number of them leaves the state unchanged.
    """

    left: Tensor
    right: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.register_buffer("left", torch.empty(outputs))
        self.register_buffer("right", torch.empty(inputs * kernel))

    def initialise(self, generator: torch.Generator) -> None:
        """Initialise the weights, and approximate their singular vectors."""
        with torch.no_grad():
            fan_in = self.weight[0].numel()
            self.weight.copy_(torch.empty(self.weight.shape).normal_(0.0, fan_in**-0.5, generator=generator))
            self.bias.zero_()
            self.left.copy_(F.normalize(torch.empty(len(self.left)).normal_(generator=generator), dim=0))
            for _ in range(10):
                self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take one step of the power iteration towards the singular vectors of the current weights."""
        matrix = self.weight.flatten(1)
        self.right.copy_(F.normalize(matrix.mT @ self.left, dim=0, eps=1e-12))
        self.left.copy_(F.normalize(matrix @ self.right, dim=0, eps=1e-12))

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Return the convolution of `x_BCT`, of the same length."""
        largest = torch.dot(self.left, self.weight.flatten(1) @ self.right)
        kernel = self.weight.shape[2]
        return F.conv1d(x_BCT, self.weight / largest, self.bias, padding=kernel // 2)


class ScaleCritic(nn.Module):
    """Hidden layers and a score at one scale."""

    def __init__(self, inputs: int, width: int, layers: int, kernel: int) -> None:
        super().__init__()
        sizes = [inputs] + [width] * layers
        self.hidden = nn.ModuleList(
            SpectralConv(before, after, kernel) for before, after in itertools.pairwise(sizes)
        )
        self.score = SpectralConv(width, 1, 1)

    def forward(self, x_BNC: Tensor, weight_BN: Tensor) -> CriticOutput:
        """Score a sequence of N vectors per sample."""
        x_BCN = x_BNC.mT
        features = []
        for layer in self.hidden:
            x_BCN = F.leaky_relu(layer(x_BCN), SLOPE)
            features.append(x_BCN)
        return CriticOutput(self.score(x_BCN).squeeze(1), weight_BN, features)


class Critic(nn.Module):
    """All scales of decoder states (`states`) and all levels of latents (`latents`)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        critic, latents = config.critic, config.latents
        self.states = nn.ModuleList(
            ScaleCritic(config.d_model, critic.width, critic.layers, 3) for _ in range(critic.scales)
        )
        # A latent is scored together with those above it, because the prior is conditional.
        self.latents = nn.ModuleDict()
        above = 0
        for level in LEVELS:
            above += latents.sizes[level]
            self.latents[level] = ScaleCritic(above, critic.width, critic.layers, 1)

    def initialise(self, seed: int) -> None:
        """Initialise all weights from the seed alone."""
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, SpectralConv):
                module.initialise(generator)

    def refresh(self) -> None:
        """Take one step of the power iteration in every layer."""
        for module in self.modules():
            if isinstance(module, SpectralConv):
                module.refresh()

    def score_states(self, states_BTC: Tensor, weight_BT: Tensor) -> list[CriticOutput]:
        """Score decoder states at each scale, ignoring positions of weight 0."""
        outputs = []
        # The decoder's norm makes each channel about 1, so a vector has length √C; scale it to about 1.
        x_BTC = states_BTC / math.sqrt(states_BTC.shape[-1])
        for scale in self.states:
            outputs.append(scale(x_BTC, weight_BT))
            x_BTC = F.avg_pool1d(x_BTC.mT, POOL, ceil_mode=True, count_include_pad=False).mT
            weight_BT = F.avg_pool1d(weight_BT[:, None], POOL, ceil_mode=True, count_include_pad=False)[:, 0]
        return outputs

    def score_latents(self, z: Mapping[Level, Tensor], present: Mapping[Level, Tensor]) -> list[CriticOutput]:
        """Score the latents of each level with those above; `present` (B, N) masks the existing ones."""
        outputs = []
        beside = None
        for level in LEVELS:
            own = z[level]
            if beside is not None:
                share = own.shape[1] // beside.shape[1]
                own = torch.cat((beside.repeat_interleave(share, 1), own), -1)
            outputs.append(self.latents[level](own, present[level].to(own.dtype)))
            beside = own
        return outputs
