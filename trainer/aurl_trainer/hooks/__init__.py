"""Hooks: the user's functions in the training loop; see docs/hooks.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aurl_trainer.hooks.interface import Evaluation, LossInputs

__all__ = ["Evaluation", "LossInputs"]


def __getattr__(name: str) -> Any:
    """Import the interface on first use: reading the configuration must not import PyTorch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from aurl_trainer.hooks import interface

    return getattr(interface, name)
