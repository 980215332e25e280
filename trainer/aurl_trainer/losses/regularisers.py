"""Regularisers of predictions and states, for any language model."""

# ruff: noqa: N803, N806 - names carry shapes
from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from aurl_trainer.losses.term import Measured, TermFunction, TokenPass

RECENT: Final = 32
"""Number of previous tokens among which a token counts as a repetition."""


def label_smoothing(seen: TokenPass) -> Measured:
    """Cross-entropy against the uniform distribution, in nats."""
    return Measured.mean(seen.mean(-seen.log_probability_BTV.mean(-1)), seen.tokens)


def confidence_penalty(seen: TokenPass) -> Measured:
    """Negative entropy in nats."""
    negative_entropy_BT = (seen.probability_BTV * seen.log_probability_BTV).sum(-1)
    return Measured.mean(seen.mean(negative_entropy_BT), seen.tokens)


def logit_scale(seen: TokenPass) -> Measured:
    """Square of ln Σ exp(logit)."""
    return Measured.mean(seen.mean(seen.logits_BTV.logsumexp(-1).square()), seen.tokens)


def repetition(seen: TokenPass) -> Measured:
    """−ln(1 − p) summed over the tokens of the last RECENT steps, except the target."""
    V = seen.logits_BTV.shape[-1]
    so_far_BTV = F.one_hot(seen.inputs_BT, V).cumsum(1)
    before_BTV = F.pad(so_far_BTV, (0, 0, RECENT, 0))[:, : so_far_BTV.shape[1]]
    wrong_BTV = (so_far_BTV > before_BTV).float() * (1 - F.one_hot(seen.safe_targets_BT, V))
    unlikelihood_BTV = -torch.log1p(-seen.probability_BTV.clamp(max=1 - 1e-5))
    return Measured.mean(seen.mean((unlikelihood_BTV * wrong_BTV).sum(-1)), seen.tokens)


def activation(seen: TokenPass) -> Measured:
    """Mean square of the states, before the output projection."""
    return Measured.mean(seen.mean(seen.states_BTC.float().square().mean(-1)), seen.tokens)


def temporal_activation(seen: TokenPass) -> Measured:
    """Mean square of the difference of states of adjacent tokens."""
    states_BTC = seen.states_BTC.float()
    change_BT = (states_BTC[:, 1:] - states_BTC[:, :-1]).square().mean(-1)
    return Measured.mean(seen.mean(F.pad(change_BT, (1, 0))), seen.tokens)


def dropout_consistency(seen: TokenPass) -> Measured:
    """Mean of the two KL divergences between the predictions of two passes, in nats."""
    p, q = seen.log_probability_BTV, seen.again().log_softmax(-1)
    return Measured.mean(seen.mean(0.5 * _symmetric(p, q)), seen.tokens)


def _symmetric(p_BTV: Tensor, q_BTV: Tensor) -> Tensor:
    """Return KL(p ‖ q) + KL(q ‖ p) of log probabilities: Σ (p − q)(ln p − ln q)."""
    return ((p_BTV.exp() - q_BTV.exp()) * (p_BTV - q_BTV)).sum(-1)


FUNCTIONS: Final[dict[str, TermFunction]] = {
    "label_smoothing": label_smoothing,
    "confidence_penalty": confidence_penalty,
    "logit_scale": logit_scale,
    "repetition": repetition,
    "activation": activation,
    "temporal_activation": temporal_activation,
    "dropout_consistency": dropout_consistency,
}
