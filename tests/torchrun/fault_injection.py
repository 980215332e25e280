"""Hooks that break or watch a rank at a precise place, set by environment variables."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch import Tensor


def die_at_nth_call() -> None:
    """Kill this rank instead of its TEST_N-th fsync, rename, write or removal below checkpoints/."""
    left = [int(os.environ["TEST_N"])]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            where = arguments[0]
            path = _path(where)
            if "/checkpoints" in path:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in ("fsync", "write", "unlink", "rename", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))


def account_at_once() -> None:
    """Write accounts without delay, and die in step TEST_DEATH if set."""
    from aurl_trainer.monitor import report

    clocks: Any = report
    clocks.MIN_INTERVAL = clocks.ACCOUNTS_INTERVAL = 0.0
    if os.environ.get("TEST_DEATH"):
        record_samples()


def compile_without_a_compiler() -> None:
    """Let TorchDynamo trace and guard as always, but run its graphs uncompiled."""
    import functools
    import shutil

    import torch

    library: Any = torch
    library.compile = functools.partial(torch.compile, backend="eager")
    which: Any = shutil
    which.which = lambda name: name


def slow_down_one_rank() -> None:
    """Make each forward pass of rank TEST_RANK take TEST_SECONDS longer."""
    import time

    from aurl_trainer.model.transformer import Transformer

    if os.environ["RANK"] != os.environ["TEST_RANK"]:
        return
    forward = Transformer.forward

    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(float(os.environ["TEST_SECONDS"]))
        return forward(*arguments, **options)

    Transformer.forward = slow  # type: ignore[method-assign]


def sample_slowly() -> None:
    """Make rank 0 take TEST_SECONDS longer to sample; with TEST_SILENT, without a sign of life."""
    import time

    from aurl_trainer.loop import job_sampler

    loop: Any = job_sampler
    original = loop.sampler

    def slow(*arguments: Any) -> Any:
        time.sleep(float(os.environ["TEST_SECONDS"]))
        return original(*arguments)

    loop.sampler = slow
    if os.environ.get("TEST_SILENT"):
        from aurl_trainer.distributed.runtime import Distributed

        silent: Any = Distributed
        silent._beat = lambda self, beats, left: None


def poison_one_micro_batch() -> None:
    """Make the gradient of rank TEST_RANK non-finite in the second micro-batch of step TEST_STEP."""
    import torch

    from aurl_trainer.model import compilation

    loop: Any = compilation

    if os.environ["RANK"] != os.environ["TEST_RANK"]:
        return
    # Two warm-up passes come first, and a step has `TEST_PASSES` micro-batches.
    wanted = 2 + (int(os.environ["TEST_STEP"]) - 1) * int(os.environ["TEST_PASSES"]) + 2
    calls = [0]
    original = loop.token_loss_sum_in_place

    def poisoned(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            calls[0] += 1
        loss: torch.Tensor = original(logits, targets)
        return loss * float("nan") if calls[0] == wanted and torch.is_grad_enabled() else loss

    loop.token_loss_sum_in_place = poisoned


def fill_disk() -> None:
    """Fail every write below checkpoints/ as on a full disk while the file TEST_FULL exists."""
    import errno

    original = os.write

    def write(descriptor: int, data: Any) -> int:
        full = Path(os.environ["TEST_FULL"]).exists()
        if full and "/checkpoints" in _path(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(descriptor, data)

    os.write = write


def fail_writes() -> None:
    """Fail the first TEST_FAILURES writes below checkpoints/ as on a full disk."""
    import errno

    original, left = os.write, [int(os.environ["TEST_FAILURES"])]

    def write(descriptor: int, data: Any) -> int:
        if left[0] > 0 and "/checkpoints" in _path(descriptor):
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(descriptor, data)

    os.write = write


def draw_in_a_fixed_order() -> None:
    """Make the order of the data depend only on the seed, not on the dataset's fingerprint."""
    from aurl_trainer.data.loader import Loader

    original = Loader.__init__

    def opened(self: Loader, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        self.fingerprint = "fixed"

    Loader.__init__ = opened  # type: ignore[method-assign]


def record_samples() -> None:
    """Write the samples of each step to `TEST_SAMPLES-<rank>`; die instead of step TEST_DEATH, if set."""
    from aurl_trainer.loop.batches import Batches
    from aurl_trainer.objective.objective import MicroBatch

    original = Batches.next
    path = Path(f"{os.environ['TEST_SAMPLES']}-{os.environ['RANK']}")

    def recorded(self: Batches, token_counter: int, step: int) -> tuple[list[MicroBatch], int]:
        if os.environ.get("TEST_DEATH") == str(step):
            os.kill(os.getpid(), signal.SIGKILL)
        micro_batches, valid = original(self, token_counter, step)
        samples = [row for inputs, _ in micro_batches for row in inputs.tolist()]
        counts = [int((targets != -100).sum()) for _, targets in micro_batches]
        with path.open("a") as file:
            file.write(json.dumps({"step": step, "valid": counts, "samples": samples}) + "\n")
        return micro_batches, valid

    Batches.next = recorded  # type: ignore[method-assign]


def record_samples_of_an_overflow() -> None:
    """As `record_samples`, with an infinite gradient in step TEST_STEP, resumed or not."""
    from aurl_trainer.optim.guard import UpdateGuard

    record_samples()
    original = UpdateGuard.admit

    def overflowing(
        self: UpdateGuard, gradients: Sequence[Tensor], normaliser: float, step: int
    ) -> tuple[Tensor, Tensor]:
        if os.environ["TEST_STEP"] == str(step):
            for gradient in gradients:
                gradient.fill_(float("inf"))
        return original(self, gradients, normaliser, step)

    UpdateGuard.admit = overflowing  # type: ignore[method-assign]


def spoil_data() -> None:
    """As `record_samples`; batches that start at TEST_FROM to TEST_TO of the token counter are spoilt.

    TEST_SPOIL says how: `targets` puts noise in their place, `nan` makes the loss of the rank TEST_RANK not
    finite. TEST_ROLLBACK_DEATH kills the ranks at the first roll-back: `before` it, amid the `deletion` of
    checkpoints, or `after` it.
    """
    from aurl_trainer.checkpoint.manager import Checkpoint, CheckpointManager
    from aurl_trainer.loop.batches import Batches
    from aurl_trainer.loop.rollback import Rollback
    from aurl_trainer.model import compilation
    from aurl_trainer.objective.objective import MicroBatch

    record_samples()
    begin, end, how = int(os.environ["TEST_FROM"]), int(os.environ["TEST_TO"]), os.environ["TEST_SPOIL"]
    spoilt, death = [False], os.environ.get("TEST_ROLLBACK_DEATH")
    original_next, loop = Batches.next, cast("Any", compilation)
    original_loss, original_rollback = loop.token_loss_sum_in_place, Rollback.to_healthy

    def next_batches(self: Batches, token_counter: int, step: int) -> tuple[list[MicroBatch], int]:
        micro_batches, valid = original_next(self, token_counter, step)
        spoilt[0] = begin <= token_counter < end
        if spoilt[0] and how == "targets":
            micro_batches = [(inputs, (targets * 7919 + 13) % 40) for inputs, targets in micro_batches]
            valid = sum(targets.numel() for _, targets in micro_batches)
        return micro_batches, valid

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        total = cast("Tensor", original_loss(logits, targets))
        poison = spoilt[0] and how == "nan" and os.environ["RANK"] == os.environ["TEST_RANK"]
        return total * float("nan") if poison and total.requires_grad else total

    def to_healthy(self: Rollback, *arguments: Any) -> Any:
        if death == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if death == "deletion":
            die_after_deletion()
        progress = original_rollback(self, *arguments)
        if death:
            os.kill(os.getpid(), signal.SIGKILL)
        return progress

    def die_after_deletion() -> None:
        original = CheckpointManager._remove

        def remove(self: CheckpointManager, checkpoint: Checkpoint) -> None:
            original(self, checkpoint)
            os.kill(os.getpid(), signal.SIGKILL)

        CheckpointManager._remove = remove  # type: ignore[method-assign]

    Batches.next = next_batches  # type: ignore[method-assign]
    loop.token_loss_sum_in_place = loss
    Rollback.to_healthy = to_healthy  # type: ignore[assignment,method-assign]


def _path(where: Any) -> str:
    return str(Path(f"/proc/self/fd/{where}").readlink()) if isinstance(where, int) else str(where)


def run_out_of_memory() -> None:
    """Fail an allocation in step TEST_STEP of rank TEST_RANK while micro-batches are too large.

    TEST_WHERE says where: `forward`, or `backward` when all blocks' gradients are there; TEST_FITS is the
    number of samples that fits.
    """
    import torch

    from aurl_trainer.loop.batches import Batches
    from aurl_trainer.model import compilation

    record_samples()
    if os.environ["RANK"] != os.environ["TEST_RANK"]:
        return
    loop: Any = compilation
    original, step = loop.token_loss_sum_in_place, [0]
    following = Batches.next

    def next_batch(self: Batches, token_counter: int, number: int) -> Any:
        step[0] = number
        return following(self, token_counter, number)

    def fail(*_: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory")

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        # A warm-up's targets are zeros.
        too_large = len(targets) > int(os.environ["TEST_FITS"]) and bool(targets.any())
        wanted = step[0] == int(os.environ["TEST_STEP"]) and torch.is_grad_enabled() and too_large
        if wanted and os.environ["TEST_WHERE"] == "forward":
            fail()
        if wanted:
            node: Any = logits.grad_fn
            while node.name() != "EmbeddingBackward0":
                node = next(after for after, _ in node.next_functions if after is not None)
            node.register_prehook(fail)
        found: torch.Tensor = original(logits, targets)
        return found

    watched: Any = Batches
    watched.next = next_batch
    loop.token_loss_sum_in_place = loss


def limit_memory() -> None:
    """Leave rank TEST_SCARCE only TEST_LEFT bytes of memory, and all others plenty."""
    from aurl_trainer.memory import capacity

    meters: Any = capacity
    scarce = os.environ.get("TEST_SCARCE") == os.environ["RANK"]
    meters.available_memory = lambda: None
    meters.memory_left = lambda: int(os.environ["TEST_LEFT"]) if scarce else 2**34
