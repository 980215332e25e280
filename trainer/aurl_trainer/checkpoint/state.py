"""The JSON state of a checkpoint: the progress of training, and the identity of the training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from aurl_trainer.errors import CheckpointMismatchError


@dataclass
class Progress:
    """Progress of training. `samples` and `tokens` include those of skipped steps.

    `tokens` is also the position in the order of the data, so it includes data skipped by rollbacks.
    """

    step: int = 0
    samples: int = 0
    tokens: int = 0
    initial_loss: float | None = None
    """The first finite loss, usually that of the first step, in nats per token."""
    loss: float | None = None
    """Mean loss of the last log interval."""
    validation_loss: float | None = None
    """Loss of the last evaluation, that of the averaged weights, and the step of the evaluation."""
    ema_validation_loss: float | None = None
    validation_step: int = 0
    interval_loss: float = 0.0
    """Summed loss of all ranks since the last log line, and its number of valid tokens, steps and samples."""
    interval_tokens: int = 0
    interval_steps: int = 0
    interval_samples: int = 0
    interval_terms: dict[str, float] = field(default_factory=dict)
    """Summed extra losses since the last log line, by name."""
    skips_reported: dict[str, int] = field(default_factory=dict)
    """Skipped updates that were reported, by reason; those of the critic by `critic_` and the reason."""
    rollbacks: int = 0
    skipped_windows: list[list[int]] = field(default_factory=list)
    """Token counters [from, to) of the data skipped by rollbacks."""
    learning_rate_factor: float = 1.0
    """Factor on the learning rate from rollbacks, plateaus and other findings."""
    stability: dict[str, Any] = field(default_factory=dict)
    """State of the detectors."""
    healthy: bool = True
    """True if the detectors found no problem when this was saved."""
    last_healthy_step: int = 0
    """Last step of the newest log interval at which nothing did."""
    best_step: int = 0
    """Step of the lowest validation loss if its checkpoint must be kept, else 0."""
    stopped: str | None = None
    """Reason for stopping before the last step, if any."""

    @property
    def trained_tokens(self) -> int:
        """Tokens drawn, without those skipped by rollbacks."""
        return self.tokens - sum(end - begin for begin, end in self.skipped_windows)

    def leave_out_data(self, token_counter: int) -> None:
        """Skip the data up to `token_counter`."""
        self.skipped_windows.append([self.tokens, token_counter])
        self.tokens = token_counter

    def advance(self, samples: int, token_counter: int, valid_tokens: int) -> None:
        """Count a step of `samples` samples that ends at `token_counter`, with `valid_tokens` targets."""
        self.step += 1
        self.samples += samples
        self.tokens = token_counter
        self.interval_samples += samples
        self.interval_tokens += valid_tokens
        self.interval_steps += 1

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Progress:
        """Return the progress from the result of `to_json`."""
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def evaluated_loss(state: Mapping[str, Any]) -> float | None:
    """Return the loss by which to rank the checkpoint with this `state.json`.

    It is the validation loss of its averaged weights, or else of its weights; None if its step was not
    evaluated.
    """
    progress = state.get("progress", {})
    if not progress.get("validation_step") or progress["validation_step"] != progress.get("step"):
        return None
    averaged = progress.get("ema_validation_loss")
    loss = averaged if averaged is not None else progress.get("validation_loss")
    return float(loss) if loss is not None and math.isfinite(loss) else None


@dataclass(frozen=True)
class TrainingIdentity:
    """The training that weights belong to; a checkpoint is resumed only by the same training."""

    mode: str
    model: Mapping[str, Any]
    vocabulary_size: int
    vocabulary: str
    """Fingerprint of the vocabulary."""
    dataset: str
    """Fingerprint of the dataset."""

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    def refuse_other(self, saved: Mapping[str, Any], checkpoint: str) -> None:
        """Raise CheckpointMismatchError listing the differences to `saved`, the identity of `checkpoint`."""
        mine, theirs = flatten(self.to_json()), flatten(saved)
        differences = [
            f"{key} is {theirs.get(key)!r} there and {mine.get(key)!r} in this job"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key)
        ]
        if differences:
            raise CheckpointMismatchError(
                f"{checkpoint} belongs to another training: {'; '.join(differences)}. "
                "Give the job another name, or delete its checkpoints."
            )


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by their dotted keys; an empty mapping is a leaf."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        flat |= flatten(entry, f"{prefix}.{key}" if prefix else str(key))
    return flat
