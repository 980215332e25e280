"""Asynchronous saving: tensors are copied to buffers that a thread writes while training continues.

Weights and moments change only in the optimizer's step. So the large ones are copied while the next step
computes its gradients, and the loop waits for the copy (`settle`) just before it changes them: on a CPU a
thread copies, on CUDA a separate stream, for which the host never waits. Sharded tensors are gathered first,
one by one, while all ranks wait.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from aurl_trainer.checkpoint.manager import Checkpoint, CheckpointManager, Contents
from aurl_trainer.distributed.sharding import give, host_buffer, is_sharded, to_host

Pair: TypeAlias = tuple[Tensor, Tensor]
"""A buffer and the tensor to copy into it."""

Copying: TypeAlias = "Future[None] | torch.cuda.Event"
"""Handle for the completion of a copy."""

SMALL = 1 << 20
"""Bytes up to which a tensor is copied immediately, because that costs less than scheduling it."""


@dataclass(frozen=True)
class SaveResult:
    """The result of a save, `seconds` after its request; `error` is None if the checkpoint is committed."""

    step: int
    seconds: float
    checkpoint: Checkpoint | None
    error: OSError | None


def give_shards(contents: Contents) -> None:
    """Contribute this rank's shards to a `CheckpointWriter.save` of rank 0."""
    for tensors in contents.tensors.values():
        give(tensors.values())


@dataclass(frozen=True)
class _Save:
    """A save in progress: its contents are the buffers, complete once `copying` is done."""

    step: int
    contents: Contents
    started: float
    tries_left: int
    copying: Copying | None = None


class CheckpointWriter:
    """Saves one checkpoint at a time, through CPU buffers that are allocated once. For rank 0 only.

    A failed save is retried from its copy, `retries` times and `retry_seconds` apart, while training
    continues; a newer save replaces it.
    """

    def __init__(
        self,
        manager: CheckpointManager,
        *,
        asynchronous: bool,
        retries: int = 0,
        retry_seconds: float = 0.0,
    ) -> None:
        self.manager, self.asynchronous = manager, asynchronous
        self.retries, self.retry_seconds = retries, retry_seconds
        self._copier = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-copy")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint", initializer=_lower_priority)
        self._pending: tuple[_Save, Future[SaveResult]] | None = None
        self._failed: _Save | None = None
        self._retry_at = 0.0
        self._copying: Copying | None = None
        self._buffers: dict[str, Tensor] = {}
        self._stream: torch.cuda.Stream | None = None
        self.last: SaveResult | None = None
        """The result of the last finished save."""

    def save(self, step: int, contents: Contents) -> list[SaveResult]:
        """Start to write `contents` as they are now, and return the results of finished saves.

        Waits for a save that is still being written, because it needs the same buffers.
        """
        results = self.wait()
        save = _Save(step, contents, time.monotonic(), self.retries)
        if self.asynchronous:
            self._begin(self._copied(save))
            return results
        self._failed = None
        sharded = any(map(is_sharded, contents.model.values()))
        if sharded:  # the other ranks contribute their shards only now
            save = self._copied(save)
        result = self._write(save)
        if result.error is not None:
            if not sharded:
                save = self._copied(save)
            self.settle()
            self._try_again(save)
        return [*results, result]

    def settle(self) -> None:
        """Wait until the tensors of a save may change; call this before changing them."""
        copying, self._copying = self._copying, None
        if isinstance(copying, torch.cuda.Event):
            torch.cuda.current_stream().wait_event(copying)
        elif copying is not None:
            copying.result()

    def poll(self) -> list[SaveResult]:
        """Return the result of a save that finished since the last call, without waiting.

        Starts the retry of a failed save when it is due.
        """
        if self._pending is not None:
            return self.wait() if self._pending[1].done() else []
        if self._failed is not None and time.monotonic() >= self._retry_at:
            self._begin(self._failed)
        return []

    def wait(self) -> list[SaveResult]:
        """Wait for the save in progress, if any, and return its result."""
        if self._pending is None:
            return []
        save, future = self._pending
        result, self._pending = future.result(), None
        if result.error is not None:
            self._try_again(save)
        return [result]

    def abandon(self) -> list[SaveResult]:
        """Finish the save in progress and drop a failed one, because training rolls back to before it."""
        results = self.wait()
        self._failed = None
        return results

    def close(self, *, hurry: bool = False) -> list[SaveResult]:
        """Finish the save in progress with all its retries, and stop the threads.

        In a `hurry` (this process is about to be killed) it retries without waiting.
        """
        self.settle()
        results = self.wait()
        while self._failed is not None:
            if not hurry:
                time.sleep(max(0.0, self._retry_at - time.monotonic()))
            self._begin(self._failed)
            results += self.wait()
        self._copier.shutdown()
        self._thread.shutdown()
        self._buffers.clear()
        return results

    def _begin(self, save: _Save) -> None:
        self._failed = None
        self._pending = save, self._thread.submit(self._write, save)

    def _try_again(self, save: _Save) -> None:
        if save.tries_left > 0:
            self._failed = replace(save, tries_left=save.tries_left - 1)
            self._retry_at = time.monotonic() + self.retry_seconds

    def _copied(self, save: _Save) -> _Save:
        """Start to copy all tensors and return the save of the copies."""
        pairs: list[Pair] = []
        copies = {}
        for kind, tensors in save.contents.tensors.items():
            more, copies[kind] = self._pair(kind, tensors)
            pairs += more
        self._copying = self._begin_copy(pairs)
        return replace(save, contents=save.contents.with_tensors(copies), copying=self._copying)

    def _pair(self, kind: str, tensors: Mapping[str, Tensor]) -> tuple[list[Pair], dict[str, Tensor]]:
        """Return the pairs of buffers and tensors to copy, and the buffers by name.

        Sharded tensors are gathered into their buffers here, because all ranks take part.
        """
        pairs, copies = [], {}
        for name, tensor in tensors.items():
            key = f"{kind}/{name}"
            if key not in self._buffers:
                self._buffers[key] = host_buffer(tensor)
            if is_sharded(tensor):
                copies[name] = to_host(tensor, self._buffers[key])
                continue
            copies[name] = self._buffers[key]
            pairs.append((self._buffers[key], tensor.detach()))
        return pairs, copies

    def _begin_copy(self, pairs: list[Pair]) -> Copying | None:
        """Copy small tensors, start to copy large ones, and return a handle for their completion."""
        if any(tensor.is_cuda for _, tensor in pairs):
            # PyTorch leaves these constructors untyped.
            self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for buffer, tensor in pairs:
                    buffer.copy_(tensor, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(self._stream)
            return done
        large = []
        for buffer, tensor in pairs:
            if tensor.nbytes > SMALL and tensor.device.type == "cpu":
                large.append((buffer, tensor))
            else:
                buffer.copy_(tensor)
        return self._copier.submit(_copy_all, large) if large else None

    def _write(self, save: _Save) -> SaveResult:
        if isinstance(save.copying, torch.cuda.Event):
            save.copying.synchronize()
        elif save.copying is not None:
            save.copying.result()
        checkpoint, error = None, None
        on_cpu = {
            kind: {name: tensor.cpu() for name, tensor in tensors.items()}
            for kind, tensors in save.contents.tensors.items()
        }
        try:
            checkpoint = self.manager.save(save.step, save.contents.with_tensors(on_cpu))
        except OSError as failure:
            error = failure
        self.last = SaveResult(save.step, time.monotonic() - save.started, checkpoint, error)
        return self.last


def _lower_priority() -> None:
    """Give this thread only the CPU time that training leaves; slower saves cost nothing."""
    if sys.platform == "linux":  # threads have their own priority only on Linux
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def _copy_all(pairs: list[Pair]) -> None:
    """Copy with NumPy on this thread; PyTorch would take threads from the loop."""
    for buffer, tensor in pairs:
        source = tensor.contiguous().view(-1).view(torch.uint8)
        np.copyto(buffer.view(-1).view(torch.uint8).numpy(), source.numpy())
