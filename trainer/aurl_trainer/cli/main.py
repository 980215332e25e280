"""The commands of `aurl-trainer` and their arguments.

Exit codes: 0 done, 2 bad input (one sentence per fault, no traceback), 130 interrupted before there was
anything to save; `launch` and `train` use the launcher's codes of docs/contracts.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from aurl_trainer import __version__
from aurl_trainer.errors import AurlError


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    options = command_line().parse_args(arguments)
    try:
        return int(options.run(options))
    except AurlError as error:
        print(f"aurl-trainer: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has seen enough; keep the interpreter from flushing into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def command_line() -> argparse.ArgumentParser:
    """All commands with their arguments; each sets `run`, a function of the options to the exit code."""
    parser = argparse.ArgumentParser(prog="aurl-trainer", description="Train models of symbolic music.")
    parser.add_argument("--version", action="version", version=f"aurl-trainer {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_train(commands)
    _add_prepare(commands)
    _add_sample(commands)
    _add_evaluate(commands)
    _add_checkpoints(commands)
    _add_config(commands)
    _add_page(commands)
    _add_logs(commands)
    _add_launch(commands)
    return parser


Commands = argparse._SubParsersAction  # argparse has no public name for it


def _add_job(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--job",
        type=Path,
        required=True,
        metavar="FILE",
        help="a job file, or a bare file of `dataset` and `training`",
    )
    command.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one key of the job file, for instance training.steps=50; may be given several times",
    )


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where everything is stored (default: build/train/<name of the job>)",
    )
    command.add_argument(
        "--verbose", action="store_true", help="show the logs of all processes instead of a summary"
    )


def _add_train(commands: Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "train", help="run a whole job on this machine, without a cluster; resumes when run again"
    )
    _add_job(command)
    _add_output(command)
    command.add_argument(
        "--http-port",
        type=int,
        default=0,
        metavar="PORT",
        help="port of the job's page, /metrics and /progress (default: any)",
    )

    def train(options: argparse.Namespace) -> int:
        from aurl_trainer.cli import jobfile, local

        job = jobfile.read_job(options.job, options.changes)
        return local.train(job, options.output, http_port=options.http_port, verbose=options.verbose)

    command.set_defaults(run=train)


def _add_prepare(commands: Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("prepare", help="only write the dataset of a job")
    _add_job(command)
    _add_output(command)

    def prepare(options: argparse.Namespace) -> int:
        from aurl_trainer.cli import jobfile, local

        return local.prepare(
            jobfile.read_job(options.job, options.changes), options.output, verbose=options.verbose
        )

    command.set_defaults(run=prepare)


def _add_sample(commands: Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("sample", help="make music from a checkpoint: MIDI files and piano rolls")
    _add_model(command)
    command.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where the files go (default: samples/ of the job or export)",
    )
    command.add_argument("--count", type=int, metavar="N", help="number of pieces (default: as the job says)")
    command.add_argument(
        "--seed", type=int, metavar="N", help="seed of the first piece (default: as the job says)"
    )
    command.add_argument(
        "--prompt", type=Path, metavar="FILE", help="a MIDI file that all pieces begin with and go on from"
    )
    command.add_argument(
        "--prompt-quarters",
        type=float,
        metavar="N",
        help="only the first N quarter notes of the prompt (default: all of it)",
    )
    latents = command.add_mutually_exclusive_group()
    latents.add_argument(
        "--vary",
        type=Path,
        metavar="FILE",
        help="modes vae and vae-gan: pieces from latents around those of a MIDI file (see --spread)",
    )
    latents.add_argument(
        "--blend",
        type=Path,
        nargs=2,
        metavar="FILE",
        help="modes vae and vae-gan: pieces from latents between those of two MIDI files, the first piece at "
        "the first file and the last at the second",
    )
    command.add_argument(
        "--spread",
        type=float,
        metavar="N",
        help="how far the latents lie from the most likely ones, in standard deviations: with --vary of the "
        "file's own, otherwise of the prior (default: 1)",
    )
    command.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one key of training.sample, for instance temperature=0.9; may be given several times",
    )
    command.add_argument(
        "--json", action="store_true", help="print one line of JSON with the files in base64"
    )

    def sample(options: argparse.Namespace) -> int:
        from aurl_trainer.cli.sample import run as sample_music

        return sample_music(options)

    command.set_defaults(run=sample)


def _add_evaluate(commands: Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "evaluate", help="judge a model: likelihood of held-out music, and its own music beside the corpus"
    )
    _add_model(command)
    command.add_argument(
        "--dataset", type=Path, metavar="DIR", help="a prepared dataset (default: the job's own)"
    )
    command.add_argument(
        "--split", choices=("validation", "test"), help="what was held out (default: test if there is one)"
    )
    command.add_argument(
        "--stride",
        type=int,
        metavar="N",
        help="tokens between two windows of a long piece (default: the context; less costs more, knows more)",
    )
    command.add_argument(
        "--samples",
        type=int,
        default=16,
        metavar="N",
        help="pieces to sample and compare with the corpus; 0: none (default: 16)",
    )
    command.add_argument("--output", type=Path, metavar="FILE", help="write the report as JSON here too")
    command.add_argument("--json", action="store_true", help="print the report as JSON instead of a table")

    def evaluate(options: argparse.Namespace) -> int:
        from aurl_trainer.cli.evaluate import run as evaluate_model

        return evaluate_model(options)

    command.set_defaults(run=evaluate)


def _add_checkpoints(commands: Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("checkpoints", help="look at, compare and export a job's checkpoints")
    actions = command.add_subparsers(metavar="ACTION", required=True)

    def add(name: str, help_text: str) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:])
        action.set_defaults(action=name)
        return action

    for name, help_text in (
        ("list", "list the complete checkpoints, with sizes and validation losses"),
        ("verify", "check every file against its sha256; exit code 1 when one is damaged"),
    ):
        action = add(name, help_text)
        action.add_argument("--job-dir", type=Path, required=True, metavar="DIR", help="the job's directory")
        action.add_argument("--json", action="store_true", help="print JSON")
    action = add("export", "write weights, configuration and vocabulary into one folder, for `sample`")
    where = action.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--job-dir", type=Path, metavar="DIR", help="a job's directory; its newest checkpoint is taken"
    )
    where.add_argument("--checkpoint", type=Path, metavar="DIR", help="a checkpoint's directory")
    _add_export(action)
    action = add("average", "write the mean of the last checkpoints into such a folder")
    action.add_argument("--job-dir", type=Path, required=True, metavar="DIR", help="the job's directory")
    action.add_argument(
        "--last", type=_positive, default=3, metavar="N", help="number of newest checkpoints (default: 3)"
    )
    _add_export(action)
    action = add(
        "diff", "say what differs between two checkpoints or exports; exit code 1 when anything does"
    )
    for side in ("a", "b"):
        action.add_argument(side, type=Path, metavar=side.upper(), help="directory of a checkpoint or export")
    action.add_argument("--json", action="store_true", help="print JSON")

    def checkpoints(options: argparse.Namespace) -> int:
        from aurl_trainer.cli.checkpoints import run as look

        return look(options)

    command.set_defaults(run=checkpoints)


def _add_export(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="the new folder; it must not exist"
    )
    _add_weights(action)


def _add_weights(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--weights",
        choices=("trained", "ema"),
        help="the trained weights or their moving average (default: the average where there is one)",
    )


def _add_model(command: argparse.ArgumentParser) -> None:
    """Which trained model, and which of its weights."""
    where = command.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--job-dir", type=Path, metavar="DIR", help="a job's directory; its newest checkpoint is taken"
    )
    where.add_argument("--checkpoint", type=Path, metavar="DIR", help="directory of a checkpoint or export")
    _add_weights(command)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _add_config(commands: Commands[argparse.ArgumentParser]) -> None:
    def show(options: argparse.Namespace) -> int:
        from aurl_trainer.cli import configuration

        return configuration.show(options.job, options.changes)

    def explain(options: argparse.Namespace) -> int:
        from aurl_trainer.cli import configuration

        return configuration.explain(options.key)

    def schema(options: argparse.Namespace) -> int:
        from aurl_trainer.cli import configuration

        return configuration.schema()

    command = commands.add_parser("config", help="check a job file and print what it resolves to")
    _add_job(command)
    command.set_defaults(run=show)
    command = commands.add_parser(
        "explain", help="say what the keys of a job file mean, with units, defaults and bounds"
    )
    command.add_argument(
        "key", nargs="?", default="", help="only this key and those under it, for instance training.model"
    )
    command.set_defaults(run=explain)
    command = commands.add_parser("schema", help="print the JSON schema of `dataset` and `training`")
    command.set_defaults(run=schema)


def _add_page(commands: Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("page", help="serve the page of a job whose pods or processes are gone")
    command.add_argument("--job-dir", type=Path, required=True, metavar="DIR", help="the job's directory")
    command.add_argument(
        "--http-port", type=int, default=9402, metavar="PORT", help="port (default: 9402; 0: any)"
    )

    def page(options: argparse.Namespace) -> int:
        from aurl_trainer.cli.page import serve

        return serve(options.job_dir, options.http_port)

    command.set_defaults(run=page)


def _add_logs(commands: Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "logs", help="make the JSON lines on standard input readable: kubectl logs -f POD | aurl-trainer logs"
    )

    def show(options: argparse.Namespace) -> int:
        from aurl_trainer.logs import readable

        for line in sys.stdin:
            print(readable(line), flush=True)
        return 0

    command.set_defaults(run=show)


def _add_launch(commands: Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("launch", help="PID 1 of a pod: run one role as the AURL_* variables say")
    command.add_argument("role", choices=("train", "prepare"))
    command.add_argument(
        "--rank-script",
        type=Path,
        metavar="FILE",
        help="a Python script that each rank runs instead of the trainer",
    )

    def launch(options: argparse.Namespace) -> int:
        from aurl_trainer.cli.launch import run as launch_role

        return launch_role(options.role, options.rank_script)

    command.set_defaults(run=launch)
