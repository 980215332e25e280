"""Which functions of the user's own take part in training. No torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from aurl_trainer.schema import Config

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=63)]
Function = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$", max_length=255
    ),
]


class LossHook(Config):
    """A term that is added to the loss."""

    name: Name = Field(description="Name of the term in logs and metrics: small letters, digits and _.")
    function: Function = Field(
        description="The function, as module:function; docs/hooks.md says what it gets."
    )
    weight: float = Field(
        default=1.0, ge=-1e6, le=1e6, description="Factor of the term in the loss; it is reported without."
    )


class MetricHook(Config):
    """A number that is computed at each evaluation."""

    name: Name = Field(description="Name of the number in logs and metrics: small letters, digits and _.")
    function: Function = Field(
        description="The function, as module:function; docs/hooks.md says what it gets."
    )


class HooksConfig(Config):
    """Python functions of your own: extra losses and evaluation metrics."""

    path: str = Field(
        default="",
        max_length=4096,
        description="Directory that modules are imported from, absolute or relative to the root of the job's "
        "volume. Left out: installed packages only.",
    )
    losses: list[LossHook] = Field(
        default_factory=list, max_length=100, description="Terms that are added to the loss."
    )
    metrics: list[MetricHook] = Field(
        default_factory=list, max_length=100, description="Numbers that are computed at each evaluation."
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> HooksConfig:
        for key, hooks in (("losses", self.losses), ("metrics", self.metrics)):
            names = [hook.name for hook in hooks]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise ValueError(f"{key} has two hooks of the name {twice}: give each a name of its own")
        return self
