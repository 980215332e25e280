"""A cross-entropy that needs no memory beside the logits: they are overwritten by their gradient.

A vocabulary is far wider than a small model, so the logits are most of the memory traffic of a step.
PyTorch's cross-entropy writes tensors of their size four times: the log-probabilities, two gradients of
these, and the gradient of the logits. Here everything happens in place. The loss is bitwise the same;
gradients differ by rounding.
"""

# ruff: noqa: N803, N806 - names carry shapes
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from aurl_trainer.data.loader import IGNORED


def token_loss_sum_in_place(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Return the result of `token_loss_sum`; overwrites the logits on a CPU, so do not read them again."""
    logits_NV, targets_N = logits_BTV.flatten(0, 1).float(), targets_BT.flatten()
    if logits_NV.device.type == "cpu" and torch.is_grad_enabled():
        loss: Tensor = _InPlaceLoss.apply(logits_NV, targets_N)  # type: ignore[no-untyped-call]
        return loss
    return F.cross_entropy(logits_NV, targets_N, ignore_index=IGNORED, reduction="sum")


class _InPlaceLoss(torch.autograd.Function):
    """Logits → log-probabilities → gradient, all in the memory of the logits."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        """Return the sum of −log p of the targets."""
        torch.ops.aten._log_softmax.out(logits_NV, 1, False, out=logits_NV)
        ctx.save_for_backward(logits_NV, targets_N)
        return F.nll_loss(logits_NV, targets_N, ignore_index=IGNORED, reduction="sum")

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor, None]:
        """Return weight · (p − 1 at the target), and 0 for rows without a target."""
        log_p_NV, targets_N = ctx.saved_tensors
        counts_N1 = weight * (targets_N != IGNORED).unsqueeze(1)
        gradient_NV = log_p_NV.exp_().mul_(counts_N1)
        gradient_NV.scatter_add_(1, targets_N.clamp(min=0).unsqueeze(1), -counts_N1)
        return gradient_NV, None
