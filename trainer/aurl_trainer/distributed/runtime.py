"""Rendezvous, wrapping and collectives of the ranks of a job; a job of one rank needs none of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from aurl_trainer.distributed.config import DistributionConfig
from aurl_trainer.distributed.failures import HUNG, LOST, explain, roll_call
from aurl_trainer.monitor.failure import classify, essence

_FIRST_WORKS = "aurl/first-works/"
_BEATS_PER_TIMEOUT = 4

NCCL_SHARE = 2
"""NCCL waits this many times as long as gloo, so that gloo reports a hang first: NCCL would abort the process
without an error."""


@dataclass(frozen=True)
class Layout:
    """The place of this process among the ranks."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Layout:
        """Read torchrun's RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE; without them, one rank."""
        return cls(
            rank=int(environment.get("RANK", "0")),
            world_size=int(environment.get("WORLD_SIZE", "1")),
            local_rank=int(environment.get("LOCAL_RANK", "0")),
            local_world_size=int(environment.get("LOCAL_WORLD_SIZE", "1")),
        )


class Distributed:
    """The collectives of the training loop; with world size 1 each returns immediately."""

    def __init__(
        self,
        layout: Layout,
        device: torch.device,
        config: DistributionConfig = DistributionConfig(),
    ) -> None:
        self.layout, self.device, self.config = layout, device, config
        self.rank, self.world_size = layout.rank, layout.world_size
        self.alone = layout.world_size == 1
        self.sharded = config.strategy == "fsdp" and not self.alone
        self._vote = torch.zeros(3, dtype=torch.int64)
        self._exchanging = True
        self._first_works = 0
        self._timeout = config.first_step_timeout_seconds
        if self.alone:
            return
        # Hosts agree over gloo even with GPUs, so that they never wait for the device.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        patience = timedelta(seconds=self._timeout)
        self._store, *_ = next(rendezvous("env://", timeout=patience))
        dist.init_process_group(
            backend, store=self._store, rank=self.rank, world_size=self.world_size, timeout=patience
        )
        self._set_timeout(self._timeout)

    @property
    def strategy(self) -> str:
        """`single`, `ddp` or `fsdp`."""
        return "single" if self.alone else self.config.strategy

    def wrap(self, model: nn.Module, precision: str) -> nn.Module:
        """Return the model on this rank's device, with gradients averaged over ranks.

        Every rank must have initialised the same weights (with ddp, rank 0 sends its own to all). With fsdp,
        parameters are sharded from here on.
        """
        if self.sharded:
            from aurl_trainer.distributed.fsdp import shard

            return shard(model, self.device, self.world_size, self.config, precision)
        model.to(self.device)
        if self.alone:
            return model
        device_ids = [self.device] if self.device.type == "cuda" else None
        # Buffers are tables, the same on every rank: nothing to broadcast.
        return DistributedDataParallel(
            model, device_ids=device_ids, gradient_as_bucket_view=True, broadcast_buffers=False
        )

    def synchronised(self, network: nn.Module, now: bool) -> AbstractContextManager[object]:
        """Return the context of a pass whose gradients are reduced over ranks if `now`, else accumulated."""
        if isinstance(network, DistributedDataParallel):
            return nullcontext() if now else network.no_sync()
        if self.sharded and now != self._exchanging:
            from aurl_trainer.distributed.fsdp import exchange_gradients

            exchange_gradients(network, self.config, now)
            self._exchanging = now
        return nullcontext()

    def after_evaluation(self, model: nn.Module) -> None:
        """Free the weights that passes without gradients have gathered of a sharded model."""
        if self.sharded:
            from aurl_trainer.distributed.fsdp import reshard

            reshard(model)

    def exchanges(self) -> int:
        """Return the number of collectives started on the backend that reduces gradients."""
        if self.alone or self.sharded:
            return 0
        group: Any = dist.group.WORLD
        if self.device.type == "cuda":  # hosts agree over another backend
            group = group._get_backend(self.device)
        return int(group._get_sequence_number_for_group())

    def complete_exchange(self, network: nn.Module, before: int) -> None:
        """Join the rest of a step's reduction with zeros, so that no rank waits for this one.

        `before` is the value of `exchanges` before the step. The wrapper must not be used after this.
        """
        if isinstance(network, DistributedDataParallel):
            reducer = network.reducer
            # As DDP's Join does for ranks without data; every rank reduces buckets in this order.
            buckets = reducer._get_zeros_like_grad_buckets()
            works = [reducer._run_comm_hook(bucket) for bucket in buckets[self.exchanges() - before :]]
            for work in works:
                work.wait()

    def vote(self, valid_tokens: int, stop: bool, failed: bool) -> tuple[int, bool, int]:
        """Return the valid tokens of all ranks, whether any was asked to stop, and how many failed."""
        if self.alone:
            return valid_tokens, stop, int(failed)
        self._vote[0], self._vote[1], self._vote[2] = valid_tokens, stop, failed
        valid, stops, failures = self.sum(self._vote).tolist()
        return valid, stops > 0, failures

    def highest(self, value: float) -> float:
        """Return the largest of all ranks' values."""
        if self.alone:
            return value
        tensor = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return float(tensor)

    def first_step_done(self) -> None:
        """Use the shorter timeout from here on; call it on every rank."""
        if not self.alone:
            self._set_timeout(self.config.timeout_seconds)

    @contextmanager
    def explained(self, step: Callable[[], int]) -> Iterator[None]:
        """Raise HangError or PeerLostError, naming `step()` and the ranks, when a collective fails."""
        try:
            yield
        except RuntimeError as error:
            failure_class, peer_lost = classify(error)
            if self.alone or not (failure_class == "Hang" or peer_lost):
                raise
            found = roll_call(self._store, self.rank, self.world_size, LOST if peer_lost else HUNG)
            raise explain(self.rank, step(), self._timeout, *found, essence(str(error))) from error

    @contextmanager
    def wait_for_first(self) -> Iterator[None]:
        """Make the other ranks wait at the end of the block until rank 0 has left it, however long it takes.

        Rank 0 may work alone in the block for longer than the timeout of collectives. The others give up, as
        in a collective, when rank 0 shows no sign of life for the timeout. Every rank must call it.
        """
        if self.alone:
            yield
            return
        self._first_works += 1
        done, beats = (f"{_FIRST_WORKS}{self._first_works}/{name}" for name in ("done", "beats"))
        if self.rank == 0:
            left = threading.Event()
            thread = threading.Thread(target=self._beat, args=(beats, left), name="beats", daemon=True)
            thread.start()
            try:
                yield
            finally:
                left.set()
                thread.join()
                self._store.set(done, "")
            return
        yield
        heard = 0
        while True:
            try:
                self._store.wait([done], timedelta(seconds=self._timeout))
                return
            except dist.DistStoreError:
                beat = self._store.add(beats, 0)
                if beat == heard:
                    raise
                heard = beat

    def _beat(self, beats: str, left: threading.Event) -> None:
        """Show the other ranks that this one is alive, until it has left the block."""
        with suppress(RuntimeError):  # the store is gone: so are the others
            while not left.wait(self._timeout / _BEATS_PER_TIMEOUT):
                self._store.add(beats, 1)

    def sum(self, values: Tensor) -> Tensor:
        """Sum `values` over ranks, in place."""
        if not self.alone:
            dist.all_reduce(values)
        return values

    def sum_and_share(self, value: Tensor, own: float) -> tuple[float, list[float]]:
        """Return the sum of the scalar `value` over ranks, and every rank's `own`, in one collective."""
        if self.alone:
            return float(value), [own]
        row = value.new_zeros(1 + self.world_size)
        row[0], row[1 + self.rank] = value, own
        dist.all_reduce(row)
        total, *shared = row.tolist()
        return total, shared

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Replace gradients by their mean over ranks, in place and in one collective."""
        if self.alone:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.world_size
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def gather_text(self, text: str) -> list[str]:
        """Return every rank's text on every rank (no pickle: lengths first, then padded bytes)."""
        if self.alone:
            return [text]
        mine = torch.from_numpy(np.frombuffer(text.encode(), dtype=np.uint8).copy())
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        dist.all_gather(lengths, torch.tensor([len(mine)]))
        longest = max(int(length) for length in lengths)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(mine)] = mine
        parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world_size)]
        dist.all_gather(parts, padded)
        return [
            bytes(part[: int(length)].numpy()).decode() for part, length in zip(parts, lengths, strict=True)
        ]

    def from_first(self, value: int) -> int:
        """Return rank 0's `value` on every rank."""
        if self.alone:
            return value
        tensor = torch.tensor([value])
        dist.broadcast(tensor, 0)
        return int(tensor)

    def _set_timeout(self, seconds: int) -> None:
        """Set the timeout of collectives that start from here on."""
        self._timeout = seconds
        group = dist.group.WORLD
        assert group is not None
        group._get_backend(torch.device("cpu"))._set_default_timeout(timedelta(seconds=seconds))
        if self.device.type == "cuda":
            nccl = group._get_backend(self.device)
            nccl._set_default_timeout(timedelta(seconds=seconds * NCCL_SHARE))
