"""One layer over CPU, CUDA and MPS: which device, how many threads, number formats, memory."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from aurl_trainer.errors import UserError

log = logging.getLogger("aurl_trainer.train")

_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(wanted: str, local_rank: int, world_size: int) -> torch.device:
    """Return this rank's device; `auto` takes cuda, then mps, then cpu. Raises UserError without one."""
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
            f"training.device is {kind}, and this node has none that PyTorch {torch.__version__} can use."
        )
    if kind != "cuda":
        return torch.device(kind)
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"Local rank {local_rank} has no GPU of its own: the node offers {torch.cuda.device_count()}; "
            "lower numProcPerNode or ask for more GPUs."
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def available_cpus() -> int:
    """Return how many CPUs this process may use: its affinity, cut by the cgroup's quota (rounded up)."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = _CPU_LIMIT.read_text().split()
        if quota != "max":
            cpus = min(cpus, math.ceil(int(quota) / int(period)))
    return max(1, cpus)


def fix_threads(wanted: int, local_world_size: int) -> int:
    """Fix the number of CPU threads (0: a fair share) and return it; the rounding of a run depends on it."""
    threads = wanted or max(1, available_cpus() // max(1, local_world_size))
    torch.set_num_threads(threads)
    return threads


def set_tf32(device: torch.device, allowed: bool) -> None:
    """Let fp32 matrix products and convolutions on CUDA round to TF32, or not; nothing on other devices."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed  # which PyTorch allows by default


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context in which matrix products run in `precision`. Raises UserError if it cannot be."""
    if precision == "fp32":
        return contextlib.nullcontext()
    if (
        precision == "bf16"
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise UserError(
            f"training.precision is bf16, which {torch.cuda.get_device_name(device)} does not have; use fp16."
        )
    if precision == "fp16" and device.type == "cpu":
        log.warning("fp16 is slow on a CPU: set training.precision to bf16 or fp32")
    # The weight cache would hold copies over CUDA graphs and costs nothing to go without: each weight is used
    # once.
    return torch.autocast(device.type, dtype=_DTYPES[precision], cache_enabled=False)


def device_memory(device: torch.device) -> dict[str, int] | None:
    """Return the bytes of the accelerator allocated, reserved and at the peak; None on a CPU.

    MPS keeps no peak: there it is what the driver has given out, which hardly ever shrinks.
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
