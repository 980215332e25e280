"""Gradient clipping in place, by element and by unit; the guard clips by the whole norm.

The limits are tensors on the device: they include the loss scale, which the host does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

UNIT_FLOOR: Final = 1e-3
"""Norms of weights below this count as this: otherwise weights that start at zero could never move."""


def clip_values(gradients: Sequence[Tensor], limit: Tensor) -> None:
    """Clamp every element to the range from −`limit` to `limit`."""
    for gradient in gradients:
        gradient.clamp_(-limit, limit)


def clip_units(gradients: Sequence[Tensor], parameters: Sequence[Tensor], ratio: Tensor) -> None:
    """Adaptive clipping (Brock et al. 2021): g ← g · min(1, ratio · max(‖w‖, 1e-3) / ‖g‖) for each unit.

    A unit feeds one output: a row of a matrix, an entry of a vector. So no unit spans two shards of a
    parameter, which is cut along its first dimension.
    """
    for gradient, parameter in zip(gradients, parameters, strict=True):
        within = tuple(range(1, parameter.ndim))
        weight, length = (
            torch.linalg.vector_norm(tensor, dim=within, keepdim=True) if within else tensor.abs()
            for tensor in (parameter.detach(), gradient)
        )
        limit = weight.clamp(min=UNIT_FLOOR) * ratio
        gradient.mul_((limit / length.clamp(min=torch.finfo(length.dtype).tiny)).clamp(max=1.0))
