"""The model sharded over all ranks by FSDP2 (`torch.distributed.fsdp.fully_shard`), one group per block.

Imported only when used: FSDP2 imports DTensor, which costs a rank two seconds and 40 MB.
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

    Each element of a module list (a block) is gathered and freed on its own, everything else with the root.
    All ranks must have equal weights before. A block is moved to the device and cut before the next one, so
    the device never holds the whole model.

    On CUDA with bf16 or fp16, blocks are gathered in that dtype, which halves communication; the residual
    stream, embeddings, norms outside blocks and the reduction of gradients stay in fp32. On a CPU everything
    is gathered in fp32: its layer norm does not support mixed dtypes.
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
    # A pass uses the root's weights first and last: freeing them in between would not help.
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    return model.to(device)  # buffers; parameters are there already


def exchange_gradients(model: nn.Module, config: DistributionConfig, now: bool) -> None:
    """Let the next backward passes reduce gradients over ranks if `now`, else only accumulate them."""
    sharded = cast(FSDPModule, model)
    sharded.set_requires_gradient_sync(now)
    if not config.reshard_after_forward:
        sharded.set_reshard_after_backward(now)


def reshard(model: nn.Module) -> None:
    """Free all gathered weights: a pass without a backward one keeps some, which would become stale."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
