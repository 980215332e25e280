"""Passes the output of the children on as JSON lines; other text (C++, print) becomes a line of its own.

So the log of the pod is JSON from the first line to the last, and no process tears another's lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from aurl_trainer.logs import identity, timestamp

MAX_LINE: Final = 1 << 16
"""Bytes after which an unterminated line is cut."""

DRAIN_SECONDS: Final = 2.0
"""Time to wait at the end of the launch for output that is still in the pipe."""

_LEVEL = re.compile(r"\[?([IWEF])\d{4} ")
"""The prefix of a glog line, as torch writes it."""

_LEVELS: Final = {"I": "info", "W": "warning", "E": "error", "F": "critical"}


class ChildOutput:
    """A pipe for the output of children, read by a thread that hands each line to `write`."""

    def __init__(self, write: Callable[[str], None], environment: Mapping[str, str]) -> None:
        self._write = write
        self._identity = {key: value for key, value in identity(environment).items() if key != "rank"}
        self._reader, writer = os.pipe()
        self.pipe = os.fdopen(writer, "wb", buffering=0)
        """The end for the children; close it in this process once they have inherited it."""
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)
        self._thread.start()

    def drain(self) -> None:
        """Wait for the last output of the children, not for processes that still hold the pipe."""
        self.pipe.close()
        self._thread.join(DRAIN_SECONDS)

    def _run(self) -> None:
        rest = b""
        while piece := os.read(self._reader, MAX_LINE):
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > MAX_LINE:
                lines, rest = [*lines, rest], b""
            self._pass_on(lines)
        os.close(self._reader)
        self._pass_on([rest])

    def _pass_on(self, lines: list[bytes]) -> None:
        for line in lines:
            text = line.decode(errors="replace").strip()
            if text:
                # A closed log must not stop the children.
                with contextlib.suppress(OSError, ValueError):
                    self._write(text if is_log_line(text) else self._wrapped(text))

    def _wrapped(self, text: str) -> str:
        level = _LEVEL.match(text)
        fields = {
            "time": timestamp(time.time()),
            "level": _LEVELS[level.group(1)] if level else "info",
            "message": text,
            **self._identity,
            "logger": "output",
        }
        return json.dumps(fields, ensure_ascii=False)


def is_log_line(text: str) -> bool:
    """Return True if `text` is a complete log line of the trainer."""
    if not text.startswith('{"time": '):
        return False
    try:
        return "message" in json.loads(text)
    except ValueError:
        return False
