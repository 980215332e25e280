"""Saves checkpoints while training goes on: all tensors are copied aside, and a thread writes the copies.

Weights and moments change in the optimizer's step only. So the large ones are copied while the next step
computes its gradients, and the loop waits for the copy (`settle`) just before it changes them: on a CPU a
thread copies, on CUDA a stream of its own, for which the host never waits. Sharded tensors are gathered
before that, one after the other, while all ranks wait.
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
"""A buffer and the tensor that is copied into it."""

Copying: TypeAlias = "Future[None] | torch.cuda.Event"
"""Tells when a copy is done."""

SMALL = 1 << 20
"""Bytes up to which a tensor is copied at once: copying it costs less than keeping count of it."""


@dataclass(frozen=True)
class SaveResult:
    """How a save ended, `seconds` after its request; `error` is None when the checkpoint is committed."""

    step: int
    seconds: float
    checkpoint: Checkpoint | None
    error: OSError | None


def give_shards(contents: Contents) -> None:
    """Take part in a `CheckpointWriter.save` of rank 0 with the shards that this rank holds."""
    for tensors in contents.tensors.values():
        give(tensors.values())


@dataclass(frozen=True)
class _Save:
    """What is to be written: copies in the buffers, once `copying` is done."""

    step: int
    contents: Contents
    started: float
    tries_left: int
    copying: Copying | None = None


class CheckpointWriter:
    """One save at a time, through CPU buffers that are allocated once. Used on rank 0 only.

    A save that fails is tried again from its copy, `retries` times and `retry_seconds` apart, while training
    goes on; a newer one takes its place.
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
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint", initializer=_step_back)
        self._pending: tuple[_Save, Future[SaveResult]] | None = None
        self._failed: _Save | None = None
        self._retry_at = 0.0
        self._copying: Copying | None = None
        self._buffers: dict[str, Tensor] = {}
        self._stream: torch.cuda.Stream | None = None
        self.last: SaveResult | None = None
        """The save that ended last."""

    def save(self, step: int, contents: Contents) -> list[SaveResult]:
        """Begin to write `contents` as they are now; return the results of saves that have ended.

        Waits first for a save that is still being written, because its buffers are needed.
        """
        results = self.wait()
        save = _Save(step, contents, time.monotonic(), self.retries)
        if self.asynchronous:
            self._begin(self._copied(save))
            return results
        self._failed = None
        sharded = any(map(is_sharded, contents.model.values()))
        if sharded:  # others give their shards now, and will not again
            save = self._copied(save)
        result = self._write(save)
        if result.error is not None:
            if not sharded:
                save = self._copied(save)
            self.settle()
            self._try_again(save)
        return [*results, result]

    def settle(self) -> None:
        """Wait until the tensors of a save may change; call it before they do."""
        copying, self._copying = self._copying, None
        if isinstance(copying, torch.cuda.Event):
            torch.cuda.current_stream().wait_event(copying)
        elif copying is not None:
            copying.result()

    def poll(self) -> list[SaveResult]:
        """Return the result of a save that has ended since the last call, without waiting.

        Begins to write a failed one again once its time has come.
        """
        if self._pending is not None:
            return self.wait() if self._pending[1].done() else []
        if self._failed is not None and time.monotonic() >= self._retry_at:
            self._begin(self._failed)
        return []

    def wait(self) -> list[SaveResult]:
        """Wait for the save that is being written, if any, and return its result."""
        if self._pending is None:
            return []
        save, future = self._pending
        result, self._pending = future.result(), None
        if result.error is not None:
            self._try_again(save)
        return [result]

    def abandon(self) -> list[SaveResult]:
        """Finish what is being written, and give up a save that failed: training goes back to before it."""
        results = self.wait()
        self._failed = None
        return results

    def close(self, *, hurry: bool = False) -> list[SaveResult]:
        """Finish what is being written, with all its tries, and end the thread.

        In a `hurry` (this process is about to be killed) the tries follow each other at once.
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
        """Begin to copy all tensors and return the save of the copies."""
        pairs: list[Pair] = []
        copies = {}
        for kind, tensors in save.contents.tensors.items():
            more, copies[kind] = self._pair(kind, tensors)
            pairs += more
        self._copying = self._begin_copy(pairs)
        return replace(save, contents=save.contents.having(copies), copying=self._copying)

    def _pair(self, kind: str, tensors: Mapping[str, Tensor]) -> tuple[list[Pair], dict[str, Tensor]]:
        """Return which tensor is to be copied into which buffer, and the buffers by name.

        Sharded tensors are gathered into theirs here, because all ranks wait for it.
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
        """Copy what is small, begin to copy what is large, and return what tells that it is done."""
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
            checkpoint = self.manager.save(save.step, save.contents.having(on_cpu))
        except OSError as failure:
            error = failure
        self.last = SaveResult(save.step, time.monotonic() - save.started, checkpoint, error)
        return self.last


def _step_back() -> None:
    """Let this thread have only the CPU time that training leaves: a slower save costs nothing."""
    if sys.platform == "linux":  # elsewhere a thread has no priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def _copy_all(pairs: list[Pair]) -> None:
    """Copy on this thread alone: PyTorch would take the threads from the loop."""
    for buffer, tensor in pairs:
        source = tensor.contiguous().view(-1).view(torch.uint8)
        np.copyto(buffer.view(-1).view(torch.uint8).numpy(), source.numpy())
