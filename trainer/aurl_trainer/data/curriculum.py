"""Curriculum over the sequence length: short samples first, as a pure function of the step.

The target length grows from startLength s to endLength e with the progress p of the ramp, 0 to 1: linear
s + (e − s)·p, exponential s·(e / s)^p, cosine s + (e − s)·(1 − cos πp) / 2, or one bucket every `everySteps`
steps. Training uses the longest bucket of s, 2s, 4s … e that does not exceed the target: few shapes, each
warmed up before the first step. With shorter samples the batch has more of them, so the number of tokens per
step is constant.

Imports no torch: the schema generator reads this too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from aurl_trainer.schema import Config, PositiveFraction, PositiveSteps


class CurriculumConfig(Config):
    """Sequence length over time: training starts with short samples."""

    kind: Literal["none", "linear", "exponential", "cosine", "step"] = "none"
    """Growth of the length. none: always contextLength. step: doubles every `everySteps`. linear,
    exponential, cosine: over `rampFraction` of the job."""
    start_length: Annotated[int, Field(ge=8, le=1_048_576)] | None = None
    """Tokens per sample at the start; endLength must be this times a power of two. Required unless kind is
    none."""
    end_length: Annotated[int, Field(ge=8, le=1_048_576)] | None = None
    """Tokens per sample at the end; must divide contextLength. Unset: contextLength."""
    ramp_fraction: PositiveFraction = 0.5
    """Fraction of the job's steps after which endLength is reached. Not for kind step."""
    every_steps: PositiveSteps = 100
    """Optimizer steps until the length doubles. Only for kind step."""

    def _faults(self) -> Iterator[str]:
        if self.kind != "none" and self.start_length is None:
            yield f"kind {self.kind} needs startLength, the tokens per sample at the start"
        unused = {
            "none": ("start_length", "end_length", "ramp_fraction", "every_steps"),
            "step": ("ramp_fraction",),
        }.get(self.kind, ("every_steps",))
        yield from self.unused(f"kind {self.kind}", *unused)
        if self.start_length is not None and self.end_length is not None:
            yield from _faults_of_doubling(self.start_length, self.end_length, "endLength")

    def faults_in(self, context_length: int) -> Iterator[str]:
        """Yield a message for each length that does not fit into the context length."""
        if self.kind == "none":
            return
        assert self.start_length is not None
        end = self.end_length or context_length
        if end > context_length:
            yield (
                f"curriculum.endLength {end} is longer than contextLength {context_length}: "
                "raise contextLength or lower endLength"
            )
        if context_length % end:
            yield f"curriculum.endLength {end} must divide contextLength {context_length}"
        yield from _faults_of_doubling(
            self.start_length, end, "endLength" if self.end_length else "contextLength"
        )


class Curriculum:
    """The sequence length of every step of a job, and the number of samples that goes with it."""

    def __init__(self, config: CurriculumConfig, context_length: int, total_steps: int) -> None:
        self.config, self.total_steps = config, total_steps
        self.end = config.end_length or context_length if config.kind != "none" else context_length
        self.start = config.start_length or self.end if config.kind != "none" else self.end
        self.context_length = context_length
        self.lengths = [self.start << i for i in range((self.end // self.start).bit_length())]
        """Ascending, in order of training."""

    def length(self, step: int) -> int:
        """Return the tokens per sample of optimizer step `step`, counted from 1."""
        last = len(self.lengths) - 1
        if self.config.kind == "none":
            return self.end
        if self.config.kind == "step":
            return self.lengths[min(last, (step - 1) // self.config.every_steps)]
        p = (step - 1) / (self.config.ramp_fraction * self.total_steps)
        if p >= 1:
            return self.end
        wanted = self._wanted(p)
        return max(length for length in self.lengths if length <= wanted)

    def begins_length(self, step: int) -> bool:
        """Return True if the length changes at optimizer step `step`; False for the job's first step."""
        return step > 1 and self.length(step) != self.length(step - 1)

    def samples(self, samples: int, length: int) -> int:
        """Return the number of samples of `length` with as many tokens as `samples` of the context length."""
        return samples * (self.context_length // length)

    def _wanted(self, p: float) -> float:
        s, e = self.start, self.end
        if self.config.kind == "linear":
            return s + (e - s) * p
        if self.config.kind == "exponential":
            return float(s * (e / s) ** p)
        return s + (e - s) * (1 - math.cos(math.pi * p)) / 2


def _faults_of_doubling(start: int, end: int, name: str) -> Iterator[str]:
    if start > end:
        yield f"curriculum.startLength {start} is longer than {name} {end}"
    factor, rest = divmod(end, start)
    if rest or factor & (factor - 1):
        yield f"{name} {end} must be startLength {start} times a power of two: the length grows by doubling"
