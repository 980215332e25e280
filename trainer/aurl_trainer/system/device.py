"""CPU, CUDA and MPS: choice of the device, threads, precision, memory."""

from __future__ import annotations

import contextlib
import logging
from contextlib import AbstractContextManager

import torch

from aurl_trainer.errors import UserError
from aurl_trainer.system.cgroup import threads_per_rank

log = logging.getLogger("aurl_trainer.train")

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(wanted: str, local_rank: int, world_size: int) -> torch.device:
    """Return this rank's device; `auto` is the first available of cuda, mps and cpu. Raises UserError."""
    if wanted == "mps" and world_size > 1:
        raise UserError(
            f"training.device is mps, and {world_size} ranks cannot exchange gradients there: use one rank, "
            "or cpu."
        )
    mps = torch.backends.mps.is_available() and world_size == 1
    found = {"cuda": torch.cuda.is_available(), "mps": mps, "cpu": True}
    kind = next(name for name in found if found[name]) if wanted == "auto" else wanted
    if not found[kind]:
        raise UserError(
            f"training.device is {kind}, but PyTorch {torch.__version__} finds none on this node."
        )
    if kind != "cuda":
        return torch.device(kind)
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"Local rank {local_rank} has no GPU of its own: the pod has {torch.cuda.device_count()}; "
            "lower numProcPerNode or request more GPUs."
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def fix_threads(wanted: int, local_world_size: int) -> int:
    """Set the number of CPU threads (0: a fair share) and return it; rounding depends on it."""
    threads = wanted or threads_per_rank(local_world_size)
    torch.set_num_threads(threads)
    return threads


def set_tf32(device: torch.device, allowed: bool) -> None:
    """Allow or forbid TF32 for fp32 matrix products and convolutions on CUDA."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed  # PyTorch allows it by default


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context in which matrix products use `precision`. Raises UserError if unsupported."""
    if precision == "fp32":
        return contextlib.nullcontext()
    if (
        precision == "bf16"
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise UserError(
            f"training.precision is bf16, which {torch.cuda.get_device_name(device)} lacks: use fp16."
        )
    if precision == "fp16" and device.type == "cpu":
        log.warning("fp16 is slow on a CPU: set training.precision to bf16 or fp32")
    # Each weight is used once, so the weight cache would only hold copies, across CUDA graphs too.
    return torch.autocast(device.type, dtype=_DTYPES[precision], cache_enabled=False)


def device_memory(device: torch.device) -> dict[str, int] | None:
    """Return the accelerator's allocated, reserved and peak bytes; None on a CPU.

    MPS tracks no peak: there it is what the driver has allocated, which hardly ever shrinks.
    """
    if device.type == "cuda":
        return {
            "allocated": torch.cuda.memory_allocated(device),
            "reserved": torch.cuda.memory_reserved(device),
            "peak": torch.cuda.max_memory_allocated(device),
        }
    if device.type == "mps":
        reserved = torch.mps.driver_allocated_memory()
        return {"allocated": torch.mps.current_allocated_memory(), "reserved": reserved, "peak": reserved}
    return None


def reset_device_peak(device: torch.device) -> None:
    """Reset the peak of `device_memory` to what is allocated now, if the device tracks one."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
