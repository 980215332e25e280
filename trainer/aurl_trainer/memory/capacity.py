"""Memory that a rank can still allocate, and its peak: of a GPU, or of the container."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from aurl_trainer.errors import UserError
from aurl_trainer.system.cgroup import memory_left
from aurl_trainer.system.host_memory import HostMemory

MARGIN = 0.08
"""Share of the capacity that is left free, for fragmentation and for libraries that allocate later."""


class Meter(Protocol):
    """Measures the memory of passes, in bytes."""

    def held(self) -> int:
        """Return the bytes that this rank holds now."""

    def capacity(self) -> int:
        """Return the bytes that this rank could hold in all."""

    def begin(self) -> None:
        """Free what is not needed and reset the peak."""

    def peak(self) -> int:
        """Return the most bytes that this rank held since `begin`."""


class CudaMeter:
    """GPU memory as PyTorch's allocator has reserved it, fragmentation included."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def held(self) -> int:
        """Return the bytes reserved by the allocator."""
        return torch.cuda.memory_reserved(self.device)

    def capacity(self) -> int:
        """Return the bytes free on the device, which others may use too, plus those we hold."""
        free, _ = torch.cuda.mem_get_info(self.device)
        return free + self.held()

    def begin(self) -> None:
        """Return cached blocks to the device and reset the peak."""
        gc.collect()
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        """Return the most bytes that were reserved."""
        return torch.cuda.max_memory_reserved(self.device)


class HostMeter:
    """Resident memory, bounded by the container's limit and the node's free memory, which its ranks share."""

    def __init__(self, memory: HostMemory, local_world_size: int) -> None:
        self.memory, self.local_world_size = memory, local_world_size

    def held(self) -> int:
        """Return the resident bytes."""
        return self.memory.read()[0]

    def capacity(self) -> int:
        """Return the resident bytes plus this rank's share of what is free. Raises UserError if unknown."""
        left = [value for value in (memory_left(), available_memory()) if value is not None]
        if not left:
            raise UserError(
                "training.batch.microBatchSize is 0, but this system does not report its free memory: "
                "set a number of samples."
            )
        return self.held() + max(0, min(left)) // self.local_world_size

    def begin(self) -> None:
        """Return freed memory to the system and reset the peak."""
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # only glibc has it
            ctypes.CDLL(None).malloc_trim(0)
        self.memory.reset_peak()

    def peak(self) -> int:
        """Return the most bytes that were resident."""
        return self.memory.read()[1]


def total_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the size of all tensors together."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def reserve_bytes(device: torch.device, parameters: int, state: int, *, saves: bool, wrapped: bool) -> int:
    """Return the bytes that a rank allocates between the warm-up and its first checkpoint.

    `parameters` and `state` are the bytes of the weights and of the optimizer. On a CPU, zeros take no memory
    until they are written; the rank that saves copies everything, and DDP exchanges gradients in buffers of
    its own.
    """
    if device.type != "cpu":
        return 0
    return state + (parameters + state if saves else 0) + (parameters if wrapped else 0)


def make_meter(device: torch.device, memory: HostMemory, local_world_size: int) -> Meter:
    """Return the meter of a device. Raises UserError if it does not track its peak."""
    if device.type == "cuda":
        return CudaMeter(device)
    if device.type == "cpu":
        return HostMeter(memory, local_world_size)
    raise UserError(
        f"training.batch.microBatchSize 0 and memory.activationCheckpointing auto need a device that tracks "
        f"its peak memory, and {device.type} does not: set both."
    )


def available_memory(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Return the bytes that could be allocated without swapping, or None if the kernel does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
