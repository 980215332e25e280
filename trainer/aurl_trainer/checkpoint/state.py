"""What a checkpoint says beside its tensors: how far training is, and what the weights belong to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from aurl_trainer.errors import CheckpointMismatchError


@dataclass
class Progress:
    """How far training is; `samples` and `tokens` count what was drawn, skipped steps included.

    `tokens` is the place in the data's order as well, so it also counts data that a roll-back left out.
    """

    step: int = 0
    samples: int = 0
    tokens: int = 0
    initial_loss: float | None = None
    """Loss of the very first step in nats per token."""
    loss: float | None = None
    """Mean loss of the last log interval."""
    validation_loss: float | None = None
    """Loss of the newest evaluation, the same of the averaged weights, and the step it was made at."""
    ema_validation_loss: float | None = None
    validation_step: int = 0
    interval_loss: float = 0.0
    """Summed loss of all ranks since the last log line, and over how many valid tokens, steps
    and samples."""
    interval_tokens: int = 0
    interval_steps: int = 0
    interval_samples: int = 0
    interval_terms: dict[str, float] = field(default_factory=dict)
    """Summed extra losses since the last log line, by name."""
    skips_reported: dict[str, int] = field(default_factory=lambda: {"nonfinite": 0, "spike": 0})
    rollbacks: int = 0
    skipped_windows: list[list[int]] = field(default_factory=list)
    """From and to which token counter data was left out by roll-backs."""
    learning_rate_factor: float = 1.0
    """What roll-backs, plateaus and other findings have multiplied the learning rate by."""
    stability: dict[str, Any] = field(default_factory=dict)
    """State of the detectors."""
    healthy: bool = True
    """Whether nothing pointed to a bad stretch when this was saved."""
    last_healthy_step: int = 0
    """Last step of the newest log interval at which nothing did."""
    best_step: int = 0
    """Where the validation loss was lowest, when its checkpoint must be kept; else 0."""
    stopped: str | None = None
    """Why training ended before its last step, if it did."""

    @property
    def trained_tokens(self) -> int:
        """Tokens that were drawn, without those that were left out."""
        return self.tokens - sum(end - begin for begin, end in self.skipped_windows)

    def leave_out_data(self, token_counter: int) -> None:
        """Let the data go on at `token_counter`."""
        self.skipped_windows.append([self.tokens, token_counter])
        self.tokens = token_counter

    def advance(self, samples: int, token_counter: int, valid_tokens: int) -> None:
        """Count a step of `samples` samples that ends at `token_counter`; `valid_tokens` had a target."""
        self.step += 1
        self.samples += samples
        self.tokens = token_counter
        self.interval_samples += samples
        self.interval_tokens += valid_tokens
        self.interval_steps += 1

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Progress:
        """Return the progress that `asdict` wrote."""
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def evaluated_loss(state: Mapping[str, Any]) -> float | None:
    """Return by which loss the checkpoint with this `state.json` is better or worse than others.

    It is the validation loss of its average where it has one, else of its weights; None when its step was not
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
    """What the weights of a checkpoint mean; training goes on only from one with the same identity."""

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
        """Raise CheckpointMismatchError that lists what differs from the identity of `checkpoint`."""
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
