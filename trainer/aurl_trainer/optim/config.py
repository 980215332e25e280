"""How weights are updated: optimizer, learning-rate schedule, clipping."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from aurl_trainer.schema import Config, refuse_without_effect


class RampConfig(Config):
    """A value that changes over the job, as a pure function of the step."""

    kind: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="Shape of the way from the first step's value to `final`."
    )
    final: float | None = Field(
        default=None, ge=0, le=10, description="Value of the last step; required unless kind is constant."
    )

    @model_validator(mode="after")
    def _final_goes_with_kind(self) -> RampConfig:
        if self.kind != "constant" and self.final is None:
            raise ValueError(f"kind {self.kind} needs final, the value of the last step")
        if self.kind == "constant" and self.final is not None:
            raise ValueError("final has no effect with kind constant: set kind to linear or cosine")
        return self


class OptimizerConfig(Config):
    """The update rule and its coefficients."""

    kind: Literal["adamw", "lion", "adafactor"] = Field(
        default="adamw",
        description="Update rule. adamw: Loshchilov and Hutter 2019, fused kernel. lion: Chen et al. 2023, "
        "half the state; wants a learning rate 3 to 10 times smaller, a weight decay larger by as much and "
        "beta2 0.99. adafactor: Shazeer and Stern 2018 without relative steps and first moment, next to no "
        "state; learning rates as with adamw.",
    )
    learning_rate: float = Field(
        default=3e-4, gt=0, le=10, description="Peak learning rate, per optimizer step."
    )
    beta1: float = Field(
        default=0.9,
        ge=0,
        lt=1,
        description="Share of the first moment that a step keeps; not with adafactor.",
    )
    beta2: float = Field(
        default=0.95,
        ge=0,
        lt=1,
        description="Share of the second moment (lion: of its only one) that a step keeps; not with "
        "adafactor.",
    )
    epsilon: float = Field(
        default=1e-8,
        gt=0,
        le=1,
        description="Number that is added to the denominator of the update; adamw only.",
    )
    weight_decay: float = Field(
        default=0.1,
        ge=0,
        le=10,
        description="Decoupled weight decay of matrices, as a share per step of the learning rate; vectors "
        "(norms, biases) are never decayed.",
    )
    weight_decay_schedule: RampConfig = Field(
        default_factory=RampConfig, description="Weight decay over time: from weightDecay to `final`."
    )

    @model_validator(mode="after")
    def _coefficients_are_used(self) -> OptimizerConfig:
        unused = {"adamw": (), "lion": ("epsilon",), "adafactor": ("beta1", "beta2", "epsilon")}[self.kind]
        refuse_without_effect(self, unused, f"kind {self.kind}")
        return self


class ScheduleConfig(Config):
    """The learning rate over the steps: a linear warm-up, then a decay."""

    kind: Literal["cosine", "linear", "polynomial", "inverse-sqrt", "constant", "plateau"] = Field(
        default="cosine",
        description="Shape of the decay from the peak to the final learning rate after the warm-up. "
        "inverse-sqrt falls with the root of the step and no further than finalRatio. plateau falls by "
        "`factor` whenever the validation loss has not improved, no further than finalRatio.",
    )
    power: float = Field(
        default=2.0, gt=0, le=10, description="Exponent of the decay; only with kind polynomial."
    )
    warmup_steps: int = Field(
        default=100,
        ge=0,
        le=1_000_000_000,
        description="Optimizer steps of linear warm-up from 0; the default is cut to the steps of the job.",
    )
    final_ratio: float = Field(
        default=0.1, ge=0, le=1, description="Learning rate of the last step, as a share of the peak."
    )
    factor: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="What the learning rate is multiplied by at a plateau; only with kind plateau.",
    )
    patience: int = Field(
        default=2,
        ge=1,
        le=100_000,
        description="Evaluations in a row without a new best that make a plateau; only with kind plateau.",
    )
    min_delta: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="Nats per token by which the validation loss must be under the best to be a new best; "
        "only with kind plateau.",
    )

    @model_validator(mode="after")
    def _keys_are_used(self) -> ScheduleConfig:
        if self.kind != "polynomial":
            refuse_without_effect(self, ("power",), f"kind {self.kind}")
        if self.kind == "constant":
            refuse_without_effect(self, ("final_ratio",), "kind constant")
        if self.kind != "plateau":
            refuse_without_effect(self, ("factor", "patience", "min_delta"), f"kind {self.kind}")
        return self


class ClipConfig(Config):
    """Gradient clipping: the rows of each matrix first, then single elements, then the whole."""

    adaptive_ratio: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="Adaptive clipping (Brock et al. 2021): largest ratio of the gradient's norm to the "
        "weights' norm, for each row of a matrix and each entry of a vector; a longer gradient is scaled "
        "down. 0.01 is usual. 0: none.",
    )
    max_value: float = Field(
        default=0.0,
        ge=0,
        le=1e6,
        description="Largest magnitude of each element of the gradient; larger ones are cut. 0: no limit.",
    )

    max_norm: float = Field(
        default=1.0,
        ge=0,
        le=1e6,
        description="Largest norm of the whole gradient; a longer one is scaled down. 0: no clipping.",
    )


class EmaConfig(Config):
    """A moving average of the weights, for evaluation, sampling and export beside the trained weights."""

    decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the average that an optimizer step keeps; 0.999 looks back about 1000 steps. "
        "0: no average.",
    )
    warmup: bool = Field(
        default=True,
        description="Keep no more than the share (1 + n) / (10 + n) after n steps, so that the initial "
        "weights are soon forgotten.",
    )

    @model_validator(mode="after")
    def _warmup_is_used(self) -> EmaConfig:
        if self.decay == 0:
            refuse_without_effect(self, ("warmup",), "decay 0")
        return self


class BatchConfig(Config):
    """How many samples make one optimizer step. The world size never changes it."""

    global_batch_size: int = Field(
        default=32,
        ge=1,
        le=1_048_576,
        description="Samples per optimizer step, over all ranks and accumulation steps.",
    )
    micro_batch_size: int = Field(
        default=16,
        ge=0,
        le=65_536,
        description="Largest number of samples of contextLength tokens in one forward and backward pass of a "
        "rank; shorter samples come in larger numbers. 0: the largest that fits, measured before the first "
        "step and kept in the checkpoints. Rounding depends on it: a probe on another machine may choose "
        "another size and so end with other last bits, which is why it is pinned unless asked for.",
    )
    min_micro_batch_size: int = Field(
        default=4, ge=1, le=65_536, description="Fewest samples in a pass; only with microBatchSize 0."
    )
    max_micro_batch_size: int = Field(
        default=64, ge=1, le=65_536, description="Most samples in a pass; only with microBatchSize 0."
    )

    @model_validator(mode="after")
    def _bounds_in_order(self) -> BatchConfig:
        if self.min_micro_batch_size > self.max_micro_batch_size:
            raise ValueError(
                f"minMicroBatchSize {self.min_micro_batch_size} is more than maxMicroBatchSize "
                f"{self.max_micro_batch_size}: swap them"
            )
        if self.micro_batch_size:
            bounds = ("min_micro_batch_size", "max_micro_batch_size")
            refuse_without_effect(self, bounds, f"microBatchSize {self.micro_batch_size}")
        return self
