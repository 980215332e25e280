"""Configuration of user-defined losses and metrics. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, StringConstraints

from aurl_trainer.schema import Config

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=63)]
Function = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$", max_length=255
    ),
]


class LossHook(Config):
    """A user-defined loss term."""

    name: Name
    """Name of the term in logs and metrics: lower-case letters, digits and underscores."""
    function: Function
    """Function, as module:function. docs/hooks.md describes its arguments."""
    weight: Annotated[float, Field(ge=-1e6, le=1e6)] = 1.0
    """Weight of the term in the loss. The reported value is unweighted."""


class MetricHook(Config):
    """A user-defined metric, computed at each evaluation."""

    name: Name
    """Name of the metric: lower-case letters, digits and underscores."""
    function: Function
    """Function, as module:function. docs/hooks.md describes its arguments."""


class HooksConfig(Config):
    """User-defined Python functions: extra losses and evaluation metrics."""

    path: Annotated[str, Field(max_length=4096)] = ""
    """Directory to import modules from: absolute, or relative to the root of the job's volume. Unset:
    installed packages only."""
    losses: list[LossHook] = Field(default_factory=list, max_length=100)
    """Terms to add to the loss."""
    metrics: list[MetricHook] = Field(default_factory=list, max_length=100)
    """Metrics to compute at each evaluation."""

    def _faults(self) -> Iterator[str]:
        for key, hooks in (("losses", self.losses), ("metrics", self.metrics)):
            names = [hook.name for hook in hooks]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                yield f"{key} has two hooks named {twice}: give each a unique name"
