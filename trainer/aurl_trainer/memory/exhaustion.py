"""Detection of failed allocations, and a snapshot of memory for debugging."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from aurl_trainer.monitor.failure import classify
from aurl_trainer.monitor.snapshot import write_json
from aurl_trainer.system.host_memory import HostMemory

log = logging.getLogger("aurl_trainer.train")

LARGEST = 40
"""Kinds of tensors listed in the table of a host."""


def is_out_of_memory(error: BaseException) -> bool:
    """True if an allocation failed, on a device or on the host."""
    return classify(error)[0] == "OutOfMemory"


class ExhaustionSnapshot:
    """Writes the contents of memory at a failed allocation to `directory`, one file per rank.

    On CUDA it is the allocator's history, a file for https://pytorch.org/memory_viz; elsewhere a table of the
    tensors that Python knows (those kept by autograd alone are only in the resident memory).
    """

    def __init__(self, directory: Path, rank: int, device: torch.device) -> None:
        self.directory, self.rank, self.device = directory, rank, device
        if device.type == "cuda":
            torch.cuda.memory._record_memory_history(max_entries=100_000)

    def write(self, step: int, reason: str) -> None:
        """Write the file; an error is only logged, because training matters more."""
        name = f"out-of-memory-step-{step:08d}-rank-{self.rank}"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if self.device.type == "cuda":
                path = self.directory / f"{name}.pickle"
                torch.cuda.memory._dump_snapshot(str(path))  # type: ignore[no-untyped-call]
            else:
                path = self.directory / f"{name}.json"
                write_json(path, _table(step, self.rank, reason))
        except OSError as error:
            log.error("memory snapshot failed", extra={"step": step, "reason": str(error)})
        else:
            log.warning("memory snapshot", extra={"step": step, "path": str(path)})


def _table(step: int, rank: int, reason: str) -> dict[str, Any]:
    resident, peak = HostMemory().read()
    numbers: Counter[tuple[str, str]] = Counter()
    sizes: Counter[tuple[str, str]] = Counter()
    seen: set[int] = set()
    gc.unfreeze()  # get_objects leaves frozen objects out
    for thing in gc.get_objects():
        with contextlib.suppress(RuntimeError, ReferenceError):  # an object may be half destroyed
            if not isinstance(thing, torch.Tensor):
                continue
            storage = thing.untyped_storage()
            if storage.data_ptr() in seen:
                continue
            seen.add(storage.data_ptr())
            kind = (str(tuple(thing.shape)), str(thing.dtype).removeprefix("torch."))
            numbers[kind] += 1
            sizes[kind] += storage.nbytes()
    gc.freeze()
    return {
        "step": step,
        "rank": rank,
        "reason": reason,
        "residentBytes": resident,
        "residentPeakBytes": peak,
        "tensorBytes": sum(sizes.values()),
        "tensors": [
            {"shape": shape, "dtype": dtype, "number": numbers[shape, dtype], "bytes": size}
            for (shape, dtype), size in sizes.most_common(LARGEST)
        ],
    }
