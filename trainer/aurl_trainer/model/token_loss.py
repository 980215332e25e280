"""The cross-entropy of tokens that needs no memory beside the logits: they become their own gradient.

A vocabulary is far wider than a model, so of a small model the logits are most of what a step moves through
memory. PyTorch's own cross-entropy writes them four times: log-probabilities, two gradients of these, and the
logits' gradient. Here all of that happens where the logits are. The loss has the same bits; gradients differ
by rounding.
"""

# ruff: noqa: N803, N806 - names carry shapes
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from aurl_trainer.data.loader import IGNORED


def token_loss_sum_in_place(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Return what `token_loss_sum` does; on a CPU it spends the logits, which nobody may read after this."""
    logits_NV, targets_N = logits_BTV.flatten(0, 1).float(), targets_BT.flatten()
    if logits_NV.device.type == "cpu" and torch.is_grad_enabled():
        loss: Tensor = _SpendLogits.apply(logits_NV, targets_N)  # type: ignore[no-untyped-call]
        return loss
    return F.cross_entropy(logits_NV, targets_N, ignore_index=IGNORED, reduction="sum")


class _SpendLogits(torch.autograd.Function):
    """Logits → log-probabilities → gradient, all in the memory of the first."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        """Return the sum of −log p of the targets."""
        torch.ops.aten._log_softmax.out(logits_NV, 1, False, out=logits_NV)
        ctx.save_for_backward(logits_NV, targets_N)
        return F.nll_loss(logits_NV, targets_N, ignore_index=IGNORED, reduction="sum")

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor, None]:
        """Return weight · (p − 1 at the target); a row whose target does not count has none."""
        log_p_NV, targets_N = ctx.saved_tensors
        counts_N1 = weight * (targets_N != IGNORED).unsqueeze(1)
        gradient_NV = log_p_NV.exp_().mul_(counts_N1)
        gradient_NV.scatter_add_(1, targets_N.clamp(min=0).unsqueeze(1), -counts_N1)
        return gradient_NV, None
