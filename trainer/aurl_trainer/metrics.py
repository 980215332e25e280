"""The metrics of training, each declared once: its value, its names, and every place that shows it.

`Shown(...)` says where a field appears: in the log, TensorBoard, /progress, Prometheus, the history (which
the job page draws) and the termination message; all of them read it here. To add a metric, add a field to
`StepMetrics` and set it in `loop/metric_logger.py`. Losses are in nats per token. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, Final, Literal, get_type_hints

from aurl_trainer.contract import ProgressKey

SkipReason = Literal["nonfinite", "spike"]
"""Why the guard skipped an update: a gradient that is not finite, or one far longer than usual."""


@dataclass(frozen=True)
class Gauge:
    """A Prometheus gauge, `aurl_train_<name>`; fields that share one with a label are its children."""

    name: str
    help: str
    label: str | None = None


class Counter(Gauge):
    """A Prometheus counter, `aurl_train_<name>_total`, declared as a gauge is."""


@dataclass(frozen=True)
class Column:
    """A column of the history; with a title, the job page draws it as a chart of its own."""

    name: str
    title: str = ""
    unit: str = ""
    from_zero: bool = False
    wide: bool = False
    events: bool = False
    """True if the chart marks events too, not just the starts of attempts."""


@dataclass(frozen=True)
class Shown:
    """The places that show a value; None: not shown there. Declare just a `Gauge` if there is no other."""

    scalar: str | None = None
    """TensorBoard tag; what follows its slash is the key in the log line. A mapping appends its own keys."""
    progress: str | None = None
    """Key of /progress."""
    gauge: Gauge | None = None
    column: Column | None = None
    child: str = ""
    """The value of the gauge's label; a mapping has a child for each key, a list for each index."""
    final: bool = False
    """True if the termination message repeats the value of /progress."""


LOSS: Final = Gauge("loss", "Latest loss in nats per token.", "split")
SEQUENCE_LENGTH: Final = Gauge("sequence_length_tokens", "Tokens per sample.")
BATCH_SIZE: Final = Gauge("batch_size_samples", "Samples per optimizer step, whole job.")


@dataclass(frozen=True)
class StepMetrics:
    """A log interval of the whole job; all ranks see the same values, except for those from the clock."""

    step: int
    """Last step of the interval."""
    loss: Annotated[
        float, Shown("loss/train", ProgressKey.LOSS, LOSS, Column("loss"), child="train", final=True)
    ]
    """Mean of the interval; not finite if a step of it was not."""
    initial_loss: float
    """The job's first finite loss: of its first step, unless its gradient was not finite."""
    tokens_per_second: Annotated[
        float,
        Shown(
            "speed/tokens_per_second",
            ProgressKey.TOKENS_PER_SECOND,
            Gauge("tokens_per_second", "Tokens per second, whole job, last log interval."),
            Column("tokensPerSecond", "Throughput", "tokens per second", from_zero=True),
            final=True,
        ),
    ]
    """Without evaluation and checkpoints; from the clock, so it never decides what is trained."""
    learning_rate: Annotated[
        float,
        Shown(
            "optimizer/learning_rate",
            "learningRate",
            Gauge("learning_rate", "Learning rate of the last step."),
            Column("learningRate", "Learning rate", from_zero=True),
        ),
    ]
    gradient_norm: Annotated[
        float,
        Shown(
            "optimizer/gradient_norm",
            "gradientNorm",
            Gauge("gradient_norm", "Gradient norm before clipping."),
            Column("gradientNorm", "Gradient norm", "before clipping", wide=True, events=True),
        ),
    ]
    """Norm of the last step."""
    samples_per_second: Annotated[
        float,
        Shown(
            progress=ProgressKey.SAMPLES_PER_SECOND,
            gauge=Gauge("samples_per_second", "Samples per second, whole job, last log interval."),
            final=True,
        ),
    ]
    step_seconds: Annotated[
        float, Gauge("step_seconds", "Mean duration of a step over the last log interval.")
    ]
    sequence_length: Annotated[int, Shown("curriculum/sequence_length", gauge=SEQUENCE_LENGTH)]
    """Tokens per sample in the last step."""
    batch_size: Annotated[int, BATCH_SIZE]
    tokens: int = 0
    """Tokens that the whole job trained on in the interval."""
    samples: int = 0
    skips: int = 0
    """Consecutive updates that were skipped up to now."""
    skip_reason: SkipReason = "nonfinite"
    """Why most of the updates skipped in this interval were."""
    data_wait_share: float = 0.0
    """Share of the interval spent waiting for data; from the clock."""
    mfu: Annotated[
        float | None,
        Shown(
            "speed/mfu", "mfu", Gauge("mfu_ratio", "Model FLOPs per second as a share of the devices' peak.")
        ),
    ] = None
    """None if the peak of the device is unknown."""
    components: Annotated[
        Mapping[str, float],
        Shown(
            "component/",
            gauge=Gauge("loss_component", "Mean of a term of the loss, before its weight.", "term"),
        ),
    ] = field(default_factory=dict)
    """Terms of `training.losses` by name, means over the interval."""
    terms: Annotated[
        Mapping[str, float],
        Shown(
            "term/term_",
            "lossTerms",
            Gauge("loss_term", "Extra loss of a user's hook, before its weight.", "term"),
        ),
    ] = field(default_factory=dict)
    """Extra losses of `training.hooks.losses` by name, means per token."""


@dataclass(frozen=True)
class ValidationMetrics:
    """The newest losses on the held-out split, of the weights and of their moving average."""

    loss: Annotated[
        float | None,
        Shown(
            "loss/validation",
            ProgressKey.VALIDATION_LOSS,
            LOSS,
            Column("loss"),
            child="validation",
            final=True,
        ),
    ] = None
    ema_loss: Annotated[
        float | None,
        Shown("loss/validation_ema", "validationLossEma", LOSS, Column("emaLoss"), child="validation_ema"),
    ] = None


_DECLARED: Final[dict[type[Any], dict[str, Shown]]] = {}


def declared(kind: type[Any]) -> dict[str, Shown]:
    """Return the places that show the fields of a record, by name of the field."""
    if kind not in _DECLARED:
        hints = get_type_hints(kind, include_extras=True)
        _DECLARED[kind] = {
            entry.name: Shown(gauge=place) if isinstance(place, Gauge) else place
            for entry in fields(kind)
            for place in getattr(hints[entry.name], "__metadata__", ())
            if isinstance(place, Shown | Gauge)
        }
    return _DECLARED[kind]


def scalars(record: object) -> dict[str, float]:
    """Return the values for TensorBoard by tag."""
    found: dict[str, float] = {}
    for name, place in declared(type(record)).items():
        value = getattr(record, name)
        if place.scalar is None or value is None:
            continue
        if isinstance(value, Mapping):
            found |= {f"{place.scalar}{key}": item for key, item in value.items()}
        else:
            found[place.scalar] = value
    return found


def log_values(record: object) -> dict[str, float]:
    """Return the values for the log line by key."""
    return {tag.partition("/")[2]: value for tag, value in scalars(record).items()}


def progress_values(kind: type[Any], record: object | None) -> dict[str, Any]:
    """Return the values for /progress by key; without a record, unknown ones."""
    unknown: dict[str, Any] = {
        entry.name: {} if entry.default_factory is not MISSING else None for entry in fields(kind)
    }
    return {
        place.progress: unknown[name] if record is None else getattr(record, name)
        for name, place in declared(kind).items()
        if place.progress is not None
    }


def final_keys(kind: type[Any]) -> list[str]:
    """Return the keys of /progress that the termination message repeats."""
    return [place.progress for place in declared(kind).values() if place.final and place.progress is not None]


def gauge_values(record: object | None) -> Iterator[tuple[Gauge, str, float]]:
    """Yield each gauge of a record with its child and its value."""
    for name, place in declared(type(record)).items() if record is not None else ():
        value = getattr(record, name)
        if place.gauge is None or value is None:
            continue
        children: Iterable[tuple[object, float]] = [(place.child, value)]
        if isinstance(value, Mapping):
            children = value.items()
        elif isinstance(value, list):
            children = enumerate(value)
        for child, number in children:
            yield place.gauge, str(child), float(number)


def columns(kind: type[Any]) -> dict[str, Column]:
    """Return the columns of a record's history by the name of the field."""
    return {name: place.column for name, place in declared(kind).items() if place.column is not None}


def finite(value: float | None) -> float | None:
    """Return `value`, or None if it is not finite: JSON has no number for it."""
    return value if value is not None and math.isfinite(value) else None
