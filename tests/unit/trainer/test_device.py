"""Choice of device, precision and memory, as far as a CPU can test them."""

from __future__ import annotations

import logging

import pytest
import torch

from aurl_trainer.errors import UserError
from aurl_trainer.system.device import autocast, choose_device, device_memory, set_tf32


def test_auto_takes_the_cpu_where_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto", 0, 1) == torch.device("cpu")
    with pytest.raises(UserError, match=r"training\.device is cuda, but PyTorch .* finds none on this node"):
        choose_device("cuda", 0, 1)


def test_mps_is_for_one_rank() -> None:
    with pytest.raises(UserError, match="2 ranks cannot exchange gradients there"):
        choose_device("mps", 0, 2)


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_what_the_job_says_on_cuda_and_untouched_elsewhere(allowed: bool) -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        set_tf32(torch.device("cpu"), not before[0])
        assert (matmul.allow_tf32, cudnn.allow_tf32) == before
        set_tf32(torch.device("cuda"), allowed)
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (allowed, allowed)
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_matrix_products_have_the_precision(
    precision: str, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    square = torch.eye(4)
    with caplog.at_level(logging.WARNING), autocast(torch.device("cpu"), precision):
        assert (square @ square).dtype == dtype
    assert ("fp16 is slow on a CPU" in caplog.text) == (precision == "fp16")
    with autocast(torch.device("cpu"), "fp32"):
        assert (square @ square).dtype == torch.float32
    assert device_memory(torch.device("cpu")) is None
