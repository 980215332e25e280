"""Operator and trainer write the same log fields, all of them documented."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from aurl_operator.serve.logs import set_up_logging
from aurl_trainer import logs

CONTRACT = Path(__file__).parents[3] / "docs/contracts.md"
POD = {
    "AURL_JOB_NAME": "chorales", "AURL_JOB_NAMESPACE": "music", "AURL_ATTEMPT": "2",
    "AURL_NODE_RANK": "0", "RANK": "1",
}  # fmt: skip
WHERE = {"namespace": "music", "job": "chorales", "attempt": 2}
SetUp = Callable[[Mapping[str, str], IO[str]], None]


def operator(environment: Mapping[str, str], stream: IO[str]) -> None:
    set_up_logging("INFO", environment, stream=stream)


def trainer(environment: Mapping[str, str], stream: IO[str]) -> None:
    logs.setup(environment, stream=stream)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(
    set_up: SetUp, name: str, environment: Mapping[str, str], stream: io.StringIO | None = None
) -> str:
    """The log output for one exception."""
    stream = stream or io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.excepthook
    try:
        set_up(environment, stream)
        try:
            raise ValueError("wild")
        except ValueError:
            logging.getLogger(name).error(
                "it broke", exc_info=True, extra={"step": 7, "reason": "Test", **WHERE}
            )
    finally:
        root.handlers[:], root.level, sys.excepthook = before
    return stream.getvalue()


def documented() -> set[str]:
    """The fields in the table of the section on logs."""
    section = CONTRACT.read_text().partition("## Logs")[2].partition("\n## ")[0]
    return {
        name
        for row in re.findall(r"^\| (`[^|]*`) \|", section, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }


def test_both_write_the_same_documented_fields() -> None:
    lines: list[dict[str, Any]] = []
    for set_up, name, environment in ((operator, "aurl_operator.x", {}), (trainer, "aurl_trainer.x", POD)):
        (text,) = written(set_up, name, environment).splitlines()
        lines.append(json.loads(text))
    logged, trained = lines
    assert list(logged)[:3] == list(trained)[:3] == ["time", "level", "message"]
    assert set(trained) - set(logged) == {"nodeRank", "rank"}
    assert set(logged) <= set(trained) <= documented()
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert {key: line[key] for key in WHERE} == WHERE
        assert (line["level"], line["message"], line["step"]) == ("error", "it broke", 7)
        assert "ValueError: wild" in line["traceback"]


def test_a_terminal_gets_text_from_both_and_the_variable_decides() -> None:
    for set_up, name in ((operator, "aurl_operator.x"), (trainer, "aurl_trainer.x")):
        first = written(set_up, name, {}, Terminal()).splitlines()[0]
        assert re.fullmatch(r"\d\d:\d\d:\d\d ERROR .*it broke .*step=7.*", first)
        assert written(set_up, name, {"AURL_LOG_FORMAT": "text"}).splitlines()[0][8:] == first[8:]
        assert json.loads(written(set_up, name, {"AURL_LOG_FORMAT": "json"}, Terminal()))["step"] == 7


def test_lines_of_both_become_readable() -> None:
    logged = written(operator, "aurl_operator.x", {})
    assert logs.readable(logged).splitlines()[0][8:] == " ERROR music/chorales: it broke  step=7  reason=Test"
    trained = logs.readable(written(trainer, "aurl_trainer.x", POD))
    assert trained.splitlines()[0][8:] == " ERROR rank 1: it broke  step=7  reason=Test"
    assert trained.splitlines()[-1] == "ValueError: wild"
    for other in (
        "not JSON\n",
        "[1, 2]",
        '{"time": 3}',
        '{"time": "x", "level": "info", "message": "y"}',
        "null",
    ):
        assert logs.readable(other) == other.rstrip("\n")
