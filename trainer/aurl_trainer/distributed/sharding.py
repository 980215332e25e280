"""Sharded tensors: this rank's rows, gathering on rank 0, reading from a file.

FSDP2 cuts a tensor along its first dimension as torch.chunk does: of n rows, rank r of W holds
[r·c, (r+1)·c) with c = ⌈n / W⌉, so the last ranks may hold fewer or none. `zeros_like` and
`clone` of a sharded tensor are cut the same way. All functions accept whole tensors as well.

DTensor is recognised by a method: importing its class costs a rank two seconds and 40 MB.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """True if this rank holds only some rows of `tensor`."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """Return this rank's rows of `tensor`, sharing memory."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        shard: Tensor = cast(Any, tensor).to_local()
    return shard


def local_gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Return this rank's rows of the gradients of `parameters`, each of which must have one."""
    gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
    # All are sharded or none. This runs in every step, and the type needs no attribute lookup.
    return gradients if type(gradients[0]) is Tensor else [local(gradient) for gradient in gradients]


def host_buffer(tensor: Tensor) -> Tensor:
    """Return host memory for `to_host` to copy the whole of `tensor` into."""
    shape = list(tensor.shape)
    if is_sharded(tensor):
        shape[0] = _chunk(tensor) * cast(Any, tensor).device_mesh.size()
    return torch.empty(shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)


def to_host(tensor: Tensor, buffer: Tensor) -> Tensor:
    """Start copying the whole of `tensor` into its `host_buffer`; return the copy in the true shape.

    Rank 0 calls it, and gathers the shards of a sharded tensor while all others call `give`; on CUDA at most
    one tensor at a time is whole on the device. The copy is complete when the current stream is.
    """
    if not is_sharded(tensor):
        return buffer.copy_(tensor.detach(), non_blocking=True)
    shard = _padded(tensor)
    whole = torch.empty_like(buffer, device=shard.device, pin_memory=False) if shard.is_cuda else buffer
    dist.gather(shard, list(torch.split(whole, len(shard))))
    if whole is not buffer:
        buffer.copy_(whole, non_blocking=True)
    return buffer[: len(tensor)]


def give(tensors: Iterable[Tensor]) -> None:
    """Send this rank's shards of `tensors` to rank 0, which calls `to_host` in the same order."""
    for tensor in tensors:
        if is_sharded(tensor):
            dist.gather(_padded(tensor), None)


@torch.no_grad()
def read_into(tensor: Tensor, saved: Any, name: str) -> None:
    """Copy tensor `name` of an open safetensors file into `tensor`; if sharded, only this rank's rows."""
    if not is_sharded(tensor):
        tensor.copy_(saved.get_tensor(name))
        return
    shard = local(tensor)
    if len(shard):
        first = _chunk(tensor) * cast(Any, tensor).device_mesh.get_local_rank()
        shard.copy_(saved.get_slice(name)[first : first + len(shard)])


def gather_into(target: Mapping[str, Tensor] | None, tensors: Mapping[str, Tensor]) -> None:
    """Copy sharded `tensors` into whole ones of the same names on rank 0; other ranks pass None."""
    if target is None:
        give(tensors.values())
        return
    with torch.no_grad():
        for name, tensor in tensors.items():
            whole = to_host(tensor, host_buffer(tensor))
            if tensor.is_cuda:
                torch.cuda.current_stream().synchronize()
            target[name].copy_(whole)


def _chunk(tensor: Tensor) -> int:
    """Return the number of rows of a sharded tensor on its first ranks."""
    ranks: int = cast(Any, tensor).device_mesh.size()
    return -(-len(tensor) // ranks)


@torch.no_grad()
def _padded(tensor: Tensor) -> Tensor:
    """Return this rank's shard, padded to as many rows as the first rank has."""
    shard, rows = local(tensor), _chunk(tensor)
    if len(shard) == rows:
        return shard.contiguous()
    padded = shard.new_zeros((rows, *shard.shape[1:]))
    padded[: len(shard)] = shard
    return padded
