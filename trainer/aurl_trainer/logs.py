"""Logging for launcher, ranks and command line: JSON lines in pods, readable text on a terminal.

Every line has `time`, `level` and `event` (the message), the identity of its process as far as it is known
(`job`, `attempt`, `nodeRank`, `rank`), and whatever the call gave as `extra`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import IO, Any

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_IDENTITY = {"job": "AURL_JOB_NAME", "attempt": "AURL_ATTEMPT", "nodeRank": "AURL_NODE_RANK", "rank": "RANK"}


def setup(
    environment: Mapping[str, str] = os.environ, *, stream: IO[str] | None = None, level: int = logging.INFO
) -> None:
    """Send all logs of this process to `stream` (default stderr).

    `AURL_LOG_FORMAT` is `json` or `text`; without it a terminal gets text and everything else JSON lines.
    """
    stream = stream if stream is not None else sys.stderr
    chosen = environment.get("AURL_LOG_FORMAT") or ("text" if stream.isatty() else "json")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter(environment) if chosen == "text" else JsonFormatter(environment))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("torch", "matplotlib", "symusic", "PIL"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)


def identity(environment: Mapping[str, str]) -> dict[str, str | int]:
    """Return who this process is within its job, from the environment."""
    known = {key: environment[name] for key, name in _IDENTITY.items() if environment.get(name)}
    return {key: int(value) if value.isdigit() and key != "job" else value for key, value in known.items()}


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__()
        self._identity = identity(environment)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON; values that JSON does not know appear as text."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
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
        clock = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        mark = "" if record.levelno < logging.WARNING else f"{record.levelname} "
        values = "  ".join(f"{key}={_short(value)}" for key, value in _extra(record).items())
        text = f"{clock} {mark}{self._who}{record.getMessage()}" + (f"  {values}" if values else "")
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in record.__dict__.items() if key not in _STANDARD}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
