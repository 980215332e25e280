"""Logs to standard error, each line with its job: JSON lines, or text on a terminal.

The fields are listed in docs/contracts.md; the trainer writes the same ones.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import IO, Any, Final

from aurl_operator.api.trainer_contract import Variable

#: Keys that a caller may attach with `extra=`, in the order of the output.
_EXTRA: Final = ("namespace", "job", "attempt", "rank", "step", "reason", "resource", "code", "seconds")


class JsonFormatter(logging.Formatter):
    """One JSON object per record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON, with its traceback."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        line["logger"] = record.name
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """One line for people: time, job, message and values."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text, followed by its traceback if it has one."""
        values = _extra(record)
        namespace, job = values.pop("namespace", None), values.pop("job", None)
        who = f"{namespace}/{job}: " if job else ""
        mark = "" if record.levelno < logging.WARNING else f"{record.levelname} "
        pairs = "".join(f"  {key}={value}" for key, value in values.items())
        clock = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        text = f"{clock} {mark}{who}{record.getMessage()}{pairs}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def set_up_logging(
    level: str, environment: Mapping[str, str] = os.environ, *, stream: IO[str] | None = None
) -> None:
    """Log to standard error (or `stream`); of libraries only WARNING and above.

    `AURL_LOG_FORMAT` is `json` or `text`; unset: text on a terminal, JSON lines otherwise.
    """
    stream = stream if stream is not None else sys.stderr
    chosen = environment.get(Variable.LOG_FORMAT) or ("text" if stream.isatty() else "json")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if chosen == "text" else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("aurl_operator").setLevel(level)
    # At INFO kopf logs each task that it starts or stops, and each event of an object.
    logging.getLogger("kopf").setLevel(logging.WARNING)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: record.__dict__[key] for key in _EXTRA if record.__dict__.get(key) is not None}
