"""Model FLOPs utilisation (MFU): the share of the devices' peak that the model's arithmetic reaches."""

from __future__ import annotations

import torch
from torch import nn

from aurl_trainer.model.transformer import Transformer

# Dense peaks in FLOP/s, from the vendor's data sheets; the longest matching name applies.
_PEAKS: dict[str, dict[str, float]] = {
    "V100": {"fp16": 125e12, "fp32": 15.7e12},
    "T4": {"fp16": 65e12, "fp32": 8.1e12},
    "A10": {"fp16": 125e12, "bf16": 125e12, "fp32": 31.2e12},
    "A100": {"fp16": 312e12, "bf16": 312e12, "fp32": 19.5e12},
    "L4": {"fp16": 121e12, "bf16": 121e12, "fp32": 30.3e12},
    "L40S": {"fp16": 362e12, "bf16": 362e12, "fp32": 91.6e12},
    "H100": {"fp16": 989e12, "bf16": 989e12, "fp32": 67e12},
    "H100 PCIe": {"fp16": 756e12, "bf16": 756e12, "fp32": 51e12},
    "H200": {"fp16": 989e12, "bf16": 989e12, "fp32": 67e12},
    "B200": {"fp16": 2250e12, "bf16": 2250e12, "fp32": 80e12},
}


def known_peak(device_name: str, precision: str) -> float | None:
    """Return the dense peak of a device in FLOP/s, or None if it is not in the table."""
    words = f" {device_name.replace('-', ' ')} "
    names = [name for name in _PEAKS if f" {name} " in words]
    return _PEAKS[max(names, key=len)].get(precision) if names else None


def peak_flops(device: torch.device, precision: str, teraflops: float) -> float | None:
    """Return this rank's peak in FLOP/s: `teraflops` if it is set, else that of the device, if known."""
    if teraflops > 0:
        return teraflops * 1e12
    return known_peak(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None


class Utilisation:
    """MFU over all ranks.

    A token of a sequence of T costs 6·N + Σ 12·D·min(W, T) FLOPs, forward and backward, summed over layers
    (Chowdhery et al. 2022, appendix B), with N the elements of all multiplied matrices, D the width and W the
    layer's attention window, T if it has none. The causal mask is not discounted; neither recomputation by
    activation checkpointing nor keys outside the window count. Unknown for models other than the transformer,
    whose parts run over tokens, bars and samples.
    """

    def __init__(self, model: nn.Module, peak: float | None, world_size: int) -> None:
        self._peak: float | None = None
        if peak is None or not isinstance(model, Transformer):
            return
        self._peak = peak * world_size
        matrices = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim >= 2)
        if not model.config.tie_embeddings:
            matrices -= model.embedding.weight.numel()  # looked up, not multiplied
        self._per_token = 6.0 * matrices
        self._per_token_and_key = 12.0 * model.config.d_model
        self._windows = [model.config.attention.window_of(layer) for layer in range(model.config.layers)]

    def flops_per_token(self, length: int) -> float:
        """Return the FLOPs per token of training on sequences of `length` tokens."""
        keys = sum(min(window or length, length) for window in self._windows)
        return self._per_token + self._per_token_and_key * keys

    def mfu(self, tokens_per_second: float, length: int) -> float | None:
        """Return the share of the peak, or None if the peak is unknown."""
        if self._peak is None:
            return None
        return tokens_per_second * self.flops_per_token(length) / self._peak
