"""The parts of which a command of `aurl-trainer` is declared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final


class Argument:
    """One argument of a command; `options` are those of `argparse.ArgumentParser.add_argument`."""

    def __init__(self, name: str, help_text: str | None = None, **options: Any) -> None:
        self.name, self.options = name, {"help": help_text, **options}


DIRECTORY: Final[dict[str, Any]] = {"type": Path, "metavar": "DIR"}
FILE: Final[dict[str, Any]] = {"type": Path, "metavar": "FILE"}
NUMBER: Final[dict[str, Any]] = {"type": int, "metavar": "N"}
FLOAT: Final[dict[str, Any]] = {"type": float, "metavar": "N"}
PORT: Final[dict[str, Any]] = {"type": int, "metavar": "PORT"}
FLAG: Final[dict[str, Any]] = {"action": "store_true"}


class OneOf:
    """Arguments that exclude one another."""

    def __init__(self, *arguments: Argument, required: bool = False) -> None:
        self.arguments, self.required = arguments, required


@dataclass(frozen=True)
class Command:
    """A command with its arguments and the function that runs it, or a group of `actions`."""

    name: str
    help: str
    run: str = ""
    """`module:function` in this package, imported when the command runs; it takes the parsed options and
    returns the exit code."""
    arguments: tuple[Argument | OneOf, ...] = ()
    actions: tuple[Command, ...] = ()
