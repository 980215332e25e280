"""The cross-entropy in place: PyTorch's own, to the bit in its value and but for rounding in its gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aurl_trainer.data.loader import IGNORED
from aurl_trainer.model.token_loss import token_loss_sum_in_place
from aurl_trainer.model.transformer import token_loss_sum

B, T, V, C = 3, 5, 41, 8


def scene(ignored: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """States_BTC and weights_VC that make logits, and targets_BT some of which do not count."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(B, T, C, generator=generator).requires_grad_()
    weights = torch.randn(V, C, generator=generator).requires_grad_()
    targets = torch.randint(V, (B, T), generator=generator)
    targets.view(-1)[ignored] = IGNORED
    return states, weights, targets


@pytest.mark.parametrize("ignored", [[], [0, 7], [*range(B * T)]])
def test_value_and_gradients_are_those_of_the_plain_cross_entropy(ignored: list[int]) -> None:
    found = []
    for loss_of in (token_loss_sum, token_loss_sum_in_place):
        states, weights, targets = scene(ignored)
        loss = loss_of(states @ weights.T, targets)
        torch.autograd.backward(loss, torch.tensor(0.37))
        found.append((loss.detach(), states.grad, weights.grad))
    (loss, *gradients), (mine, *my_gradients) = found
    assert torch.equal(mine, loss)
    torch.testing.assert_close(my_gradients, gradients, rtol=1e-5, atol=1e-6)


def test_the_gradient_lies_where_the_logits_were() -> None:
    states, weights, targets = scene([])
    logits = states @ weights.T
    seen: list[int] = []
    assert logits.grad_fn is not None
    logits.grad_fn.register_prehook(lambda gradients: seen.append(gradients[0].data_ptr()))
    torch.autograd.backward(token_loss_sum_in_place(logits, targets))
    assert seen == [logits.data_ptr()]


def test_logits_of_lower_precision_and_those_without_a_gradient_are_left_alone() -> None:
    states, weights, targets = scene([3])
    half = (states @ weights.T).bfloat16()
    before = half.detach().clone()
    loss = token_loss_sum_in_place(half, targets)
    assert torch.equal(half, before)
    assert torch.equal(loss, token_loss_sum(half, targets))
    with torch.no_grad():
        logits = states @ weights.T
        before = logits.clone()
        loss = token_loss_sum_in_place(logits, targets)
    assert torch.equal(logits, before)
    assert torch.equal(loss, token_loss_sum(logits, targets))


def test_a_logit_that_is_no_number_spoils_loss_and_gradient_as_ever() -> None:
    states, weights, targets = scene([])
    with torch.no_grad():
        states[0, 0, 0] = float("nan")
    loss = token_loss_sum_in_place(states @ weights.T, targets)
    torch.autograd.backward(loss)
    assert loss.isnan()
    assert weights.grad is not None and weights.grad.isnan().any()
