"""The training configuration: all keys under `training` of a job file, composed of the packages' models.

Imports no torch: the launcher, the command line and the schema generator read it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from aurl_trainer.checkpoint.config import CheckpointConfig
from aurl_trainer.data.config import DatasetConfig
from aurl_trainer.data.curriculum import CurriculumConfig
from aurl_trainer.distributed.config import DistributionConfig
from aurl_trainer.errors import UserError
from aurl_trainer.hooks.config import HooksConfig
from aurl_trainer.losses.config import LossesConfig, Mode
from aurl_trainer.memory.config import MemoryConfig
from aurl_trainer.model.config import ModelConfig
from aurl_trainer.optim.config import (
    BatchConfig,
    ClipConfig,
    EmaConfig,
    OptimizerConfig,
    RampConfig,
    ScheduleConfig,
)
from aurl_trainer.sampling.config import SamplingConfig
from aurl_trainer.schema import Config, PositiveSteps, Seed, Steps, explain, is_default
from aurl_trainer.stability.config import StabilityConfig
from aurl_trainer.stability.early_stopping import EarlyStoppingConfig


class MusicEvaluationConfig(Config):
    """Comparison of music sampled as configured in `sample` with the corpus."""

    every_steps: Steps = 0
    """Optimizer steps between comparisons; one more runs at the end. 0: none."""
    samples: Annotated[int, Field(ge=1, le=4096)] = 16
    """Pieces to sample with the grammar, and as many without it."""


class EvaluationConfig(Config):
    """Validation loss, and comparison of sampled music with the corpus."""

    every_steps: Steps = 100
    """Optimizer steps between evaluations; one always runs at the end. 0: only that one."""
    batches: Annotated[int, Field(ge=1, le=1_000_000)] = 8
    """Batches of globalBatchSize samples per evaluation."""
    music: MusicEvaluationConfig = Field(default_factory=MusicEvaluationConfig)
    """Comparison of sampled music with the corpus."""


class LoggingConfig(Config):
    """Logs, TensorBoard and reported throughput."""

    every_steps: PositiveSteps = 10
    """Optimizer steps between log lines and metric updates."""
    tensorboard: bool = True
    """Write TensorBoard event files to the volume."""
    peak_teraflops: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Peak throughput of one rank's device in TFLOP/s, the denominator of MFU. 0: the data sheet's value for
    known GPUs; MFU is not reported on other devices."""


class TrainingConfig(Config):
    """Training configuration: model, losses, optimizer, checkpoints, evaluation."""

    mode: Mode = "transformer"
    """Kind of model. transformer: a decoder that predicts the next token. vae: an autoencoder with a latent
    per bar, phrase and sample. vae-gan: the same, trained against a critic."""
    steps: PositiveSteps = 1000
    """Optimizer steps of the whole job."""
    seed: Seed = 0
    """Seed of initial weights, data order and dropout."""
    context_length: Annotated[int, Field(ge=8, le=1_048_576)] = 512
    """Tokens per sample."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device. auto: the first available of cuda, mps, cpu."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of matrix products; weights and optimizer state stay in fp32. fp16 uses dynamic loss scaling
    and is slow on a CPU."""
    tf32: bool = False
    """On CUDA, round the inputs of fp32 matrix products to TF32 (10-bit mantissa): several times as fast,
    less exact. No effect on other devices."""
    compile: bool = False
    """Compile each block of the model with torch.compile before the first step, once per sequence length.
    Worthwhile on GPUs; on a CPU it needs a C++ compiler, which the images lack."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """CPU threads per rank. 0: the CPUs of the node, or its CPU limit, divided by its ranks."""
    model: ModelConfig = Field(default_factory=ModelConfig)
    """Size and shape of the model."""
    batch: BatchConfig = Field(default_factory=BatchConfig)
    """Samples per optimizer step."""
    distribution: DistributionConfig = Field(default_factory=DistributionConfig)
    """Data parallelism and collective timeouts."""
    curriculum: CurriculumConfig = Field(default_factory=CurriculumConfig)
    """Sequence length over time."""
    losses: LossesConfig = Field(default_factory=LossesConfig)
    """Weights and schedules of the loss terms."""
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    """Optimizer and its hyperparameters."""
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    """Learning-rate schedule."""
    dropout_schedule: RampConfig = Field(default_factory=RampConfig)
    """Ramp of the dropout, from model.dropout to `final` (below 1), in 32 equal steps."""
    ema: EmaConfig = Field(default_factory=EmaConfig)
    """Exponential moving average of the weights."""
    clip: ClipConfig = Field(default_factory=ClipConfig)
    """Gradient clipping."""
    stability: StabilityConfig = Field(default_factory=StabilityConfig)
    """Protection against divergence."""
    memory: MemoryConfig = Field(default_factory=MemoryConfig)
    """Activation checkpointing."""
    early_stopping: EarlyStoppingConfig = Field(default_factory=EarlyStoppingConfig)
    """Stopping before the last step."""
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    """Saving and retention of checkpoints."""
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    """Evaluation on held-out pieces."""
    hooks: HooksConfig = Field(default_factory=HooksConfig)
    """User-defined losses and evaluation metrics."""
    logging: LoggingConfig = Field(default_factory=LoggingConfig)
    """Logs and TensorBoard."""
    sample: SamplingConfig = Field(default_factory=SamplingConfig)
    """Sampling during training and at its end."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens of an optimizer step: samples are shorter, and as many more, early in a curriculum."""
        return self.batch.global_batch_size * self.context_length

    def _faults(self) -> Iterator[str]:
        yield from self.curriculum.faults_in(self.context_length)
        schedule, checkpoint, final = self.schedule, self.checkpoint, self.dropout_schedule.final
        # The default is capped at the job's steps; an explicit value is an error.
        if schedule.warmup_steps > self.steps and not is_default(schedule, "warmup_steps"):
            yield (
                f"schedule.warmupSteps {schedule.warmup_steps} is more than steps {self.steps}: the peak "
                "learning rate would never be reached; lower it"
            )
        if self.distribution.strategy == "fsdp" and self.optimizer.kind == "adafactor":
            yield (
                "optimizer.kind adafactor needs whole matrices, and distribution.strategy fsdp shards them: "
                "use adamw or lion, whose state is sharded too, or strategy ddp"
            )
        if final is not None and final >= 1:
            yield f"dropoutSchedule.final {final} would drop everything: set it below 1"
        if final is not None and self.compile:
            yield (
                "compile would recompile the model at every change of dropoutSchedule: set compile to false "
                "or leave dropoutSchedule out"
            )
        if self.tf32 and self.device in ("cpu", "mps"):
            yield f"tf32 has no effect with device {self.device}: leave it out, or set device to cuda"
        if checkpoint.keep_every_steps % checkpoint.every_steps:
            yield (
                f"checkpoint.keepEverySteps {checkpoint.keep_every_steps} is not a multiple of "
                f"checkpoint.everySteps {checkpoint.every_steps}: no checkpoint would be saved at some of "
                "these steps"
            )
        for path, wanted in (
            ("earlyStopping.patience", self.early_stopping.patience > 0),
            ("schedule.kind plateau", self.schedule.kind == "plateau"),
        ):
            if wanted and not self.evaluation.every_steps:
                yield (
                    f"{path} needs the validation loss, and evaluation.everySteps is 0: set it to the steps "
                    "between evaluations"
                )
        yield from self._faults_of_mode()

    def _faults_of_mode(self) -> Iterator[str]:
        yield from self.model.faults_in(self.mode)
        yield from self.losses.faults_in(self.mode)
        plain = self.losses.plain(self.mode)
        if self.distribution.strategy == "fsdp" and not plain:
            yield "distribution.strategy fsdp supports only mode transformer with its plain loss: use ddp"
        if self.hooks.losses and not plain:
            yield (
                "hooks.losses work only with the plain loss of mode transformer: leave them out, or what "
                "losses changes"
            )
        if (
            self.losses.dropout_consistency.weight > 0
            and self.mode == "transformer"
            and not self.model.dropout
        ):
            yield "losses.dropoutConsistency compares two passes with dropout: set model.dropout above 0"


class JobFile(Config):
    """A job file, as a rank reads it: dataset and training."""

    dataset: DatasetConfig
    """Music source, tokenizer, split and augmentation."""
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    """Training configuration."""

    def _faults(self) -> Iterator[str]:
        if self.dataset.split.validation_fraction == 0 and not self.dataset.source.has_split:
            needs = {
                "checkpoint.keepBest": not is_default(self.training.checkpoint, "keep_best"),
                "hooks.metrics": bool(self.training.hooks.metrics),
                "earlyStopping": self.training.early_stopping.patience > 0,
                "schedule.kind plateau": self.training.schedule.kind == "plateau",
            }
            for key, used in needs.items():
                if used:
                    yield (
                        f"training.{key} needs held-out pieces, and dataset.split.validationFraction is 0: "
                        "raise it or leave the key out"
                    )

    @classmethod
    def load(cls, path: Path) -> JobFile:
        """Read a bare file of `dataset` and `training`, or an AurlTrainingJob (other keys are ignored).

        Raises UserError with one line per error, each with its path in the file.
        """
        return cls.parse(read_document(path), str(path))

    @classmethod
    def parse(cls, document: Any, origin: str) -> JobFile:
        """Validate a loaded document; `origin` names it in errors. Raises UserError as `load` does."""
        if not isinstance(document, dict):
            raise UserError(f"The job file {origin} must hold a mapping with the keys dataset and training.")
        root = ""
        if document.get("kind") == "AurlTrainingJob":
            spec = document.get("spec")
            document = (
                {key: spec[key] for key in cls.model_fields if key in spec} if isinstance(spec, dict) else {}
            )
            root = "spec"
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise UserError(f"The job file {origin} is not valid.\n{explain(error, root)}") from error


def read_document(path: Path) -> Any:
    """Load the YAML of a job file, not yet validated. Raises UserError if it cannot be read or parsed."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"The job file {path} cannot be read: {error.strerror or error}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"The job file {path} is not valid YAML: {' '.join(str(error).split())}.") from error
