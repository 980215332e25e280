"""The model sharded over all ranks by FSDP2 (`torch.distributed.fsdp.fully_shard`), one group per block.

Imported only where it is wanted: FSDP2 imports DTensor, which costs a rank two seconds and 40 MB.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from aurl_trainer.distributed.config import DistributionConfig

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def shard(
    model: nn.Module, device: torch.device, world_size: int, config: DistributionConfig, precision: str
) -> nn.Module:
    """Shard `model` in place over all ranks and return it; its parameters become DTensors on `device`.

    Every element of a module list (each block) is gathered and freed on its own, all else together with the
    root. All ranks must hold equal weights before. A block goes to the device, and is cut, before the next
    does, so the device never holds the whole model.

    On CUDA with bf16 or fp16, blocks are gathered in that type, which halves what is sent; the residual
    stream, embeddings, norms outside blocks and the reduction of gradients stay in fp32. On a CPU all is
    gathered in fp32: its layer norm takes no mixed types.
    """
    mesh = init_device_mesh(device.type, (world_size,))
    policy = MixedPrecisionPolicy()
    if device.type == "cuda" and precision in _DTYPES:
        policy = MixedPrecisionPolicy(
            param_dtype=_DTYPES[precision], reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    for block in reversed([block for blocks in lists for block in blocks]):  # inner ones first
        fully_shard(block, mesh=mesh, reshard_after_forward=config.reshard_after_forward, mp_policy=policy)
    # The root's weights are used first and last in a pass: freeing them between would gain nothing.
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    return model.to(device)  # buffers; parameters are there


def exchange_gradients(model: nn.Module, config: DistributionConfig, now: bool) -> None:
    """Let the coming backward passes reduce gradients over ranks `now`, or only add them up on this rank."""
    sharded = cast(FSDPModule, model)
    sharded.set_requires_gradient_sync(now)
    if not config.reshard_after_forward:
        sharded.set_reshard_after_backward(now)


def reshard(model: nn.Module) -> None:
    """Free all gathered weights: a pass without a backward one leaves some behind, which would grow old."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
