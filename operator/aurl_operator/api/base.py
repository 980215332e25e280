"""The base of the resource's models: camelCase in YAML, snake_case in Python, unknown keys rejected."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

GROUP = "aurl.ai"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "AurlTrainingJob"
PLURAL = "aurltrainingjobs"
SINGULAR = "aurltrainingjob"
SHORT_NAMES = ("atj",)
CATEGORIES = ("all",)

PRESERVE_UNKNOWN = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING = "x-kubernetes-int-or-string"
QUANTITY_PATTERN = r"^\d+(\.\d+)?([eE][+-]?\d+|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"


class Model(BaseModel):
    """Base of all models of the resource."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


def format_time(time: datetime) -> str:
    """Format a time as `metav1.Time`: RFC 3339 in UTC with whole seconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: object) -> datetime | None:
    """Parse RFC 3339; None for anything else, since a status may be malformed."""
    if not isinstance(text, str) or not text:
        return None
    try:
        return _aware(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        return None


def _aware(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


Time = Annotated[
    datetime,
    AfterValidator(_aware),
    PlainSerializer(format_time, return_type=str, when_used="json"),
]

Quantity = Annotated[
    int | float | str,
    Field(
        description="A Kubernetes quantity such as 500m, 2 or 1Gi.",
        # Checked by the API server; core/validation.py repeats the check with a clearer message.
        json_schema_extra={INT_OR_STRING: True, "pattern": QUANTITY_PATTERN},
    ),
]
