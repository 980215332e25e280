"""The parts of which a command of `aurl-trainer` is declared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Argument:
    """One argument of a command, declared as `argparse.ArgumentParser.add_argument` takes it."""

    def __init__(self, *names: str, **options: Any) -> None:
        self.names, self.options = names, options


class PathArgument(Argument):
    """An argument that names a directory, or a file with `metavar="FILE"`."""

    def __init__(self, *names: str, metavar: str = "DIR", **options: Any) -> None:
        super().__init__(*names, type=Path, metavar=metavar, **options)


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
    """`module:function` in this package, imported when the command runs; takes the options, returns the exit
    code."""
    arguments: tuple[Argument | OneOf, ...] = ()
    actions: tuple[Command, ...] = ()
