"""Model FLOPs utilisation: the formula by hand, and the choice of the peak."""

from __future__ import annotations

import pytest
import torch

from aurl_trainer.model.config import AttentionConfig, ModelConfig
from aurl_trainer.model.transformer import Transformer
from aurl_trainer.model.utilisation import Utilisation, known_peak, peak_flops


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA A100-SXM4-80GB", "fp32", 19.5e12),
        ("NVIDIA A10", "fp16", 125e12),
        ("Tesla V100-SXM2-16GB", "bf16", None),
        ("NVIDIA GeForce GTX 1080", "fp32", None),
    ],
)
def test_known_peaks(name: str, precision: str, peak: float | None) -> None:
    assert known_peak(name, precision) == peak


def test_a_given_peak_counts_and_a_cpu_has_none() -> None:
    assert peak_flops(torch.device("cpu"), "fp32", 0.0) is None
    assert peak_flops(torch.device("cpu"), "fp32", 2.0) == 2e12


@pytest.mark.parametrize("tied", [True, False])
def test_flops_of_a_token(tied: bool) -> None:
    width, layers, vocabulary, length = 16, 2, 10, 32
    model = Transformer(ModelConfig(d_model=width, layers=layers, heads=2, tie_embeddings=tied), vocabulary)
    hidden = model.config.hidden
    matrices = layers * (4 * width * width + 2 * width * hidden) + width * vocabulary
    flops = 6 * matrices + 12 * layers * width * length
    utilisation = Utilisation(model, 1e9, world_size=2)
    assert utilisation.flops_per_token(length) == flops
    assert utilisation.mfu(1000.0, length) == pytest.approx(1000 * flops / 2e9)
    assert Utilisation(model, None, world_size=2).mfu(1000.0, length) is None


def test_tokens_attend_to_no_more_than_their_window() -> None:
    attention = AttentionConfig(kind="local-global", window=8, global_every=2)
    config = ModelConfig(d_model=16, layers=4, heads=2)
    full = Utilisation(Transformer(config, 10), 1e9, 1)
    local = Utilisation(Transformer(config.model_copy(update={"attention": attention}), 10), 1e9, 1)
    assert full.flops_per_token(32) - local.flops_per_token(32) == 12 * 16 * 2 * (32 - 8)
    assert full.flops_per_token(6) == local.flops_per_token(6)
