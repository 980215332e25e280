"""The command line of `aurl-trainer`; cli/commands.py lists the commands.

Exit codes: 0 success, 2 invalid input (one sentence per error, no traceback), 130 interrupted before
anything could be saved. `launch` and `train` exit with the launcher's codes.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from aurl_trainer import __version__
from aurl_trainer.cli.command import Command, OneOf
from aurl_trainer.cli.commands import COMMANDS
from aurl_trainer.errors import AurlError


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    options = command_line().parse_args(arguments)
    module, _, function = options.run.partition(":")
    try:
        return int(getattr(importlib.import_module(f"aurl_trainer.cli.{module}"), function)(options))
    except AurlError as error:
        print(f"aurl-trainer: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) is gone; without this the interpreter fails again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def command_line() -> argparse.ArgumentParser:
    """Build the parser; the parsed options name the function to call as `run`."""
    parser = argparse.ArgumentParser(
        prog="aurl-trainer", description="Train, sample and evaluate models of symbolic music."
    )
    parser.add_argument("--version", action="version", version=f"aurl-trainer {__version__}")
    _add(parser, COMMANDS, "COMMAND")
    return parser


def _add(parser: argparse.ArgumentParser, commands: Sequence[Command], metavar: str) -> None:
    parsers = parser.add_subparsers(metavar=metavar, required=True)
    for command in commands:
        description = f"{command.help[0].upper()}{command.help[1:]}."
        added = parsers.add_parser(command.name, help=command.help, description=description)
        for argument in command.arguments:
            if isinstance(argument, OneOf):
                group = added.add_mutually_exclusive_group(required=argument.required)
                for choice in argument.arguments:
                    group.add_argument(choice.name, **choice.options)
            else:
                added.add_argument(argument.name, **argument.options)
        if command.actions:
            _add(added, command.actions, "ACTION")
        else:
            added.set_defaults(run=command.run)
