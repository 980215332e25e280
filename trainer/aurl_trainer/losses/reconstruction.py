"""Cross-entropy by kind of token, and distances between ordered tokens."""

# ruff: noqa: N806 - names carry shapes
from __future__ import annotations

from functools import partial
from typing import Final

import torch

from aurl_trainer.losses.term import Measured, TermFunction, TokenPass

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "reconstruction_end": ("Eos",),
    "reconstruction_bar": ("Bar",),
    "reconstruction_meter": ("Meter",),
    "reconstruction_position": ("Position",),
    "reconstruction_tempo": ("Tempo",),
    "reconstruction_track": ("Track", "Drums"),
    "reconstruction_program": ("Program",),
    "reconstruction_pitch": ("Pitch",),
    "reconstruction_drum": ("Drum",),
    "reconstruction_velocity": ("Velocity",),
    "reconstruction_duration": ("Duration",),
}
"""Kinds of tokens of each term; `reconstruction_other` has the rest."""

OTHER: Final = "reconstruction_other"
ORDERED: Final = {
    "ordinal_position": "Position",
    "ordinal_pitch": "Pitch",
    "ordinal_velocity": "Velocity",
    "ordinal_duration": "Duration",
}


def reconstruction(group: int, seen: TokenPass) -> Measured:
    """Cross-entropy of one group of tokens."""
    nats_G, count_G = seen.nll_G
    return Measured.sum(nats_G[group], count_G[group])


def ordinal(kind: str, seen: TokenPass) -> Measured:
    """Squared difference of the cumulative distributions over one kind, where the target is of that kind."""
    ids = seen.tables.tokens(kind)
    size = ids.stop - ids.start
    own_BT = seen.valid_BT * ((seen.targets_BT >= ids.start) & (seen.targets_BT < ids.stop)).float()
    if size < 2:
        return Measured.mean(seen.logits_BTV.sum() * 0.0, seen.tokens)
    predicted_BTS = seen.logits_BTV[..., ids].softmax(-1).cumsum(-1)
    order_S = torch.arange(ids.start, ids.stop, device=own_BT.device)
    true_BTS = (order_S >= seen.targets_BT[..., None]).float()
    distance_BT = (predicted_BTS - true_BTS).square().sum(-1)
    return Measured.mean((distance_BT * own_BT).sum() / own_BT.sum().clamp(min=1), seen.tokens)


FUNCTIONS: Final[dict[str, TermFunction]] = {
    **{name: partial(reconstruction, group) for group, name in enumerate([*GROUPS, OTHER])},
    **{name: partial(ordinal, kind) for name, kind in ORDERED.items()},
}
