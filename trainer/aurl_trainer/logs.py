"""Logging for launcher, ranks and command line: JSON lines in pods, readable text on a terminal.

The fields of a line are those of docs/contracts.md: `time`, `level` and `message`, the identity of the
process as far as it is known (`namespace`, `job`, `attempt`, `nodeRank`, `rank`), and what the call gave as
`extra`. The operator writes the same.
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
_TOLD_OTHERWISE: Final = frozenset(_IDENTITY) | {"time", "level", "message", "logger", "traceback"}


def setup(
    environment: Mapping[str, str] = os.environ, *, stream: IO[str] | None = None, level: int = logging.INFO
) -> None:
    """Send all logs of this process to `stream` (default stderr).

    `AURL_LOG_FORMAT` is `json` or `text`; without it a terminal gets text and everything else JSON lines.
    With JSON, an exception that nobody catches is one line too.
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
    """Let each line be one write; unbuffered, print() writes the words first and then the end of the line.

    Two ranks that print at the same moment into the same pipe would tear each other's lines.
    """
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(line_buffering=True, write_through=False)


def json_stream() -> logging.StreamHandler[Any] | None:
    """Return the handler that writes our JSON lines; None when we write text."""
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
    told = f"{kind.__name__}: {first}" if first else kind.__name__
    logging.getLogger("aurl_trainer").critical(told, exc_info=(kind, exception, traceback))


def identity(environment: Mapping[str, str]) -> dict[str, str | int]:
    """Return who this process is within its job, from the environment."""
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
        """Return the record as one line of JSON; values that JSON does not know appear as text."""
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
    """One line for a person: time, rank, what happened, and the values."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__()
        rank = identity(environment).get("rank")
        self._who = "" if rank is None else f"rank {rank}: "

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text, followed by its traceback where there is one."""
        traceback = self.formatException(record.exc_info) if record.exc_info else None
        clock = datetime.fromtimestamp(record.created)
        return _text(clock, record.levelname, self._who, record.getMessage(), _extra(record), traceback)


def readable(line: str) -> str:
    """Return a JSON line of ours, or of the operator's, as text for a person; any other line as it is."""
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
    values = {key: value for key, value in fields.items() if key not in _TOLD_OTHERWISE}
    return _text(clock, level, who, message, values, fields.get("traceback"))


def _text(
    clock: datetime, level: str, who: str, message: str, values: Mapping[str, Any], traceback: str | None
) -> str:
    mark = f"{level} " if level in ("WARNING", "ERROR", "CRITICAL") else ""
    told = "  ".join(f"{key}={_short(value)}" for key, value in values.items())
    text = f"{clock.strftime('%H:%M:%S')} {mark}{who}{message}" + (f"  {told}" if told else "")
    return f"{text}\n{traceback}" if traceback else text


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in record.__dict__.items() if key not in _STANDARD}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
