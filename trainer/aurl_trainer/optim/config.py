"""Configuration of the optimizer, learning-rate schedule, clipping, EMA and batch sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from aurl_trainer.schema import (
    Config,
    Fraction,
    FractionBelowOne,
    OpenFraction,
    PositiveFraction,
    Steps,
)


class RampConfig(Config):
    """A ramp over the job: a pure function of the step."""

    kind: Literal["constant", "linear", "cosine"] = "constant"
    """Shape of the ramp from the first step's value to `final`."""
    final: Annotated[float, Field(ge=0, le=10)] | None = None
    """Value at the last step. Required unless kind is constant."""

    def _faults(self) -> Iterator[str]:
        if self.kind != "constant" and self.final is None:
            yield f"kind {self.kind} needs final, the value of the last step"
        if self.kind == "constant" and self.final is not None:
            yield "final has no effect with kind constant: set kind to linear or cosine"


class OptimizerConfig(Config):
    """The optimizer and its hyperparameters."""

    kind: Literal["adamw", "lion", "adafactor"] = "adamw"
    """adamw: Loshchilov and Hutter 2019, fused kernel. lion: Chen et al. 2023, half the state; use a learning
    rate 3 to 10 times smaller, a weight decay larger by the same factor and beta2 0.99. adafactor: Shazeer
    and Stern 2018 without relative steps or first moment, almost no state; learning rates as for adamw."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 3e-4
    """Peak learning rate."""
    beta1: FractionBelowOne = 0.9
    """Decay factor of the first moment. Not for adafactor."""
    beta2: FractionBelowOne = 0.95
    """Decay factor of the second moment (lion: of its only moment). Not for adafactor."""
    epsilon: PositiveFraction = 1e-8
    """Number added to the denominator of the update. Only for adamw."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.1
    """Decoupled weight decay of matrices, scaled by the learning rate. Vectors (norms, biases) are not
    decayed."""
    weight_decay_schedule: RampConfig = Field(default_factory=RampConfig)
    """Ramp of the weight decay, from weightDecay to `final`."""

    def _faults(self) -> Iterator[str]:
        unused = {"adamw": (), "lion": ("epsilon",), "adafactor": ("beta1", "beta2", "epsilon")}[self.kind]
        yield from self.unused(f"kind {self.kind}", *unused)


class ScheduleConfig(Config):
    """Learning-rate schedule: linear warm-up, then decay."""

    kind: Literal["cosine", "linear", "polynomial", "inverse-sqrt", "constant", "plateau"] = "cosine"
    """Decay from the peak to the final learning rate after warm-up. inverse-sqrt: with the square root of the
    step, not below finalRatio. plateau: by `factor` each time the validation loss stops improving, not below
    finalRatio."""
    power: Annotated[float, Field(gt=0, le=10)] = 2.0
    """Exponent of the decay. Only for kind polynomial."""
    warmup_steps: Steps = 100
    """Optimizer steps of linear warm-up from 0. The default is capped at the job's steps."""
    final_ratio: Fraction = 0.1
    """Learning rate at the last step, as a fraction of the peak."""
    factor: OpenFraction = 0.5
    """Factor applied to the learning rate at a plateau. Only for kind plateau."""
    patience: Annotated[int, Field(ge=1, le=100_000)] = 2
    """Consecutive evaluations without a new best that count as a plateau. Only for kind plateau."""
    min_delta: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Smallest improvement of the validation loss that counts as a new best, in nats per token. Only for kind
    plateau."""

    def _faults(self) -> Iterator[str]:
        if self.kind != "polynomial":
            yield from self.unused(f"kind {self.kind}", "power")
        if self.kind == "constant":
            yield from self.unused("kind constant", "final_ratio")
        if self.kind != "plateau":
            yield from self.unused(f"kind {self.kind}", "factor", "patience", "min_delta")


class ClipConfig(Config):
    """Gradient clipping, applied in this order: per row, per element, whole gradient."""

    adaptive_ratio: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Adaptive clipping (Brock et al. 2021): largest ratio of gradient norm to weight norm, for each row of a
    matrix and each entry of a vector; larger gradients are scaled down. Typical: 0.01. 0: off."""
    max_value: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Largest magnitude of a gradient element; larger ones are clamped. 0: off."""
    max_norm: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """Largest norm of the whole gradient; a larger one is scaled down. 0: off."""


class EmaConfig(Config):
    """Exponential moving average of the weights, used for evaluation, sampling and export."""

    decay: FractionBelowOne = 0.0
    """Decay of the average per optimizer step; 0.999 averages over about 1000 steps. 0: off."""
    warmup: bool = True
    """Cap the decay at (1 + n) / (10 + n) after n steps, so that the initial weights are soon forgotten."""

    def _faults(self) -> Iterator[str]:
        if self.decay == 0:
            yield from self.unused("decay 0", "warmup")


class BatchConfig(Config):
    """Samples per optimizer step, independent of the world size."""

    global_batch_size: Annotated[int, Field(ge=1, le=1_048_576)] = 32
    """Samples per optimizer step, over all ranks and accumulation steps."""
    micro_batch_size: Annotated[int, Field(ge=0, le=65_536)] = 16
    """Most samples of contextLength tokens per forward and backward pass of a rank; with shorter samples,
    proportionally more. 0: the largest that fits, measured before the first step and kept in the checkpoints.
    The size affects rounding: measured on other hardware it may differ, and so may the last bits of the
    weights."""
    min_micro_batch_size: Annotated[int, Field(ge=1, le=65_536)] = 4
    """Fewest samples per pass. Only for microBatchSize 0."""
    max_micro_batch_size: Annotated[int, Field(ge=1, le=65_536)] = 64
    """Most samples per pass. Only for microBatchSize 0."""

    def _faults(self) -> Iterator[str]:
        if self.min_micro_batch_size > self.max_micro_batch_size:
            yield (
                f"minMicroBatchSize {self.min_micro_batch_size} is more than maxMicroBatchSize "
                f"{self.max_micro_batch_size}: swap them"
            )
        if self.micro_batch_size:
            because = f"microBatchSize {self.micro_batch_size}"
            yield from self.unused(because, "min_micro_batch_size", "max_micro_batch_size")
