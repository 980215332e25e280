"""What a rank may still allocate, and what it took at most: of a GPU, or of the container's memory."""

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
"""Share of the capacity that is never planned for: fragments, and what a library takes later."""


class Meter(Protocol):
    """Measures the memory that passes take. Bytes."""

    def held(self) -> int:
        """Return what this rank holds now."""

    def capacity(self) -> int:
        """Return what this rank could hold in all."""

    def begin(self) -> None:
        """Give back what is not needed and begin a new peak."""

    def peak(self) -> int:
        """Return the most that this rank held since `begin`."""


class CudaMeter:
    """The memory of one GPU as PyTorch's allocator has reserved it, fragments included."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def held(self) -> int:
        """Return what the allocator has reserved."""
        return torch.cuda.memory_reserved(self.device)

    def capacity(self) -> int:
        """Return what is free on the device, whoever else uses it, and what we hold."""
        free, _ = torch.cuda.mem_get_info(self.device)
        return free + self.held()

    def begin(self) -> None:
        """Return cached blocks to the device and begin a new peak."""
        gc.collect()
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        """Return the most that was reserved."""
        return torch.cuda.max_memory_reserved(self.device)


class HostMeter:
    """Resident memory, within the container's limit and what the node has left; ranks of a node share it."""

    def __init__(self, memory: HostMemory, local_world_size: int) -> None:
        self.memory, self.local_world_size = memory, local_world_size

    def held(self) -> int:
        """Return the resident bytes."""
        return self.memory.read()[0]

    def capacity(self) -> int:
        """Return the resident bytes and this rank's share of what is left. Raises UserError if untold."""
        left = [value for value in (memory_left(), available_memory()) if value is not None]
        if not left:
            raise UserError(
                "training.batch.microBatchSize is 0, and this system does not tell how much memory is left: "
                "set it to a number of samples."
            )
        return self.held() + max(0, min(left)) // self.local_world_size

    def begin(self) -> None:
        """Return freed memory to the system and begin a new peak."""
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # only glibc has it
            ctypes.CDLL(None).malloc_trim(0)
        self.memory.reset_peak()

    def peak(self) -> int:
        """Return the most that was resident."""
        return self.memory.read()[1]


def total_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the size of all tensors together."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def reserve_bytes(device: torch.device, parameters: int, state: int, *, saves: bool, wrapped: bool) -> int:
    """Return the bytes that a rank will take by its first checkpoint and does not hold before its first step.

    `parameters` and `state` are the bytes of the weights and of the optimizer. On a host, zeros take no
    memory until something is added to them; the rank that saves copies everything aside, and gradients
    travel in buffers of their own.
    """
    if device.type != "cpu":
        return 0
    return state + (parameters + state if saves else 0) + (parameters if wrapped else 0)


def make_meter(device: torch.device, memory: HostMemory, local_world_size: int) -> Meter:
    """Return the meter of a device. Raises UserError for one that keeps no peaks."""
    if device.type == "cuda":
        return CudaMeter(device)
    if device.type == "cpu":
        return HostMeter(memory, local_world_size)
    raise UserError(
        f"training.batch.microBatchSize 0 and memory.activationCheckpointing auto need a device that tells "
        f"its peak memory, and {device.type} does not: set them."
    )


def available_memory(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Return what the kernel says could be allocated without swapping, in bytes; None if it does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
