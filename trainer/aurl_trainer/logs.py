"""Logging of launcher, ranks and command line: JSON lines in pods, readable text on a terminal.

The fields of a line are documented in docs/contracts.md: `time`, `level` and `message`, the identity of the
process as far as it is known (`namespace`, `job`, `attempt`, `nodeRank`, `rank`), and the `extra` of the
call. The operator writes the same.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import IO, Any, Final

from aurl_trainer.contract import Variable

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_IDENTITY: Final = {
    "namespace": Variable.JOB_NAMESPACE,
    "job": Variable.JOB_NAME,
    "attempt": Variable.ATTEMPT,
    "nodeRank": Variable.NODE_RANK,
    "rank": "RANK",
}
_NUMBERS: Final = ("attempt", "nodeRank", "rank")
_NOT_VALUES: Final = frozenset(_IDENTITY) | {"time", "level", "message", "logger", "traceback"}


def setup(
    environment: Mapping[str, str] = os.environ, *, stream: IO[str] | None = None, level: int = logging.INFO
) -> None:
    """Send all logs of this process to `stream` (default stderr).

    `AURL_LOG_FORMAT` is `json` or `text`; without it a terminal gets text and everything else JSON lines.
    With JSON, an uncaught exception is one line too.
    """
    for printed in (sys.stdout, sys.stderr):
        _write_whole_lines(printed)
    stream = stream if stream is not None else sys.stderr
    chosen = environment.get(Variable.LOG_FORMAT) or ("text" if stream.isatty() else "json")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter(environment) if chosen == "text" else JsonFormatter(environment))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("torch", "matplotlib", "symusic", "PIL"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)
    if chosen != "text":
        sys.excepthook = _log_uncaught


def _write_whole_lines(stream: IO[str]) -> None:
    """Make each printed line one write: unbuffered, print() writes the text and the newline separately.

    Ranks that print into the same pipe at the same moment would tear each other's lines.
    """
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(line_buffering=True, write_through=False)


def json_stream() -> logging.StreamHandler[Any] | None:
    """Return the handler that writes JSON lines; None if this process logs text."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and isinstance(handler.formatter, JsonFormatter):
            return handler
    return None


def _log_uncaught(
    kind: type[BaseException], exception: BaseException, traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, exception, traceback)
        return
    first = next(iter(str(exception).splitlines()), "")
    message = f"{kind.__name__}: {first}" if first else kind.__name__
    logging.getLogger("aurl_trainer").critical(message, exc_info=(kind, exception, traceback))


def identity(environment: Mapping[str, str]) -> dict[str, str | int]:
    """Return the identity of this process within its job, from the environment."""
    known = {key: environment[name] for key, name in _IDENTITY.items() if environment.get(name)}
    return {key: int(value) if value.isdigit() and key in _NUMBERS else value for key, value in known.items()}


def timestamp(seconds: float) -> str:
    """Return epoch seconds as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__()
        self._identity = identity(environment)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON, with other types of values as text."""
        line: dict[str, Any] = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **self._identity,
            **_extra(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        line["logger"] = record.name
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """One line for a person: time, rank, message and values."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__()
        rank = identity(environment).get("rank")
        self._who = "" if rank is None else f"rank {rank}: "

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text, followed by its traceback if it has one."""
        traceback = self.formatException(record.exc_info) if record.exc_info else None
        clock = datetime.fromtimestamp(record.created)
        return _text(clock, record.levelname, self._who, record.getMessage(), _extra(record), traceback)


def readable(line: str) -> str:
    """Return a JSON log line of trainer or operator as readable text; any other line unchanged."""
    try:
        fields = json.loads(line)
        clock = datetime.fromisoformat(fields["time"]).astimezone()
        level, message = str(fields["level"]).upper(), str(fields["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return line.rstrip("\n")
    who = ""
    if "rank" in fields:
        who = f"rank {fields['rank']}: "
    elif str(fields.get("logger")).startswith("aurl_operator") and fields.get("job"):
        who = f"{fields.get('namespace')}/{fields['job']}: "
    values = {key: value for key, value in fields.items() if key not in _NOT_VALUES}
    return _text(clock, level, who, message, values, fields.get("traceback"))


def _text(
    clock: datetime, level: str, who: str, message: str, values: Mapping[str, Any], traceback: str | None
) -> str:
    mark = f"{level} " if level in ("WARNING", "ERROR", "CRITICAL") else ""
    pairs = "  ".join(f"{key}={_short(value)}" for key, value in values.items())
    text = f"{clock.strftime('%H:%M:%S')} {mark}{who}{message}" + (f"  {pairs}" if pairs else "")
    return f"{text}\n{traceback}" if traceback else text


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in record.__dict__.items() if key not in _STANDARD}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
