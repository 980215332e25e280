"""Every command of `aurl-trainer`: its name, help, arguments and function.

A table apart from the functions, because most of their modules import torch and `launch` must not.
"""

from __future__ import annotations

import argparse
from typing import Final

from aurl_trainer.cli.command import Argument, Command, OneOf, PathArgument


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _set(what: str) -> Argument:
    return Argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"override one key of {what}; repeatable",
    )


_JOB: Final = (
    PathArgument(
        "--job", metavar="FILE", required=True, help="job file, or a bare file with `dataset` and `training`"
    ),
    _set("the job file, for example training.steps=50"),
)
_LOCAL: Final = (
    PathArgument("--output", help="directory for all output (default: build/train/<name of the job>)"),
    Argument("--verbose", action="store_true", help="show the logs of all processes instead of a summary"),
)
_JOB_DIR: Final = PathArgument("--job-dir", required=True, help="directory of the job")
_CHECKPOINT: Final = OneOf(
    PathArgument("--job-dir", help="directory of a job; uses its newest checkpoint"),
    PathArgument("--checkpoint", help="directory of a checkpoint or export"),
    required=True,
)
_WEIGHTS: Final = Argument(
    "--weights",
    choices=("trained", "ema"),
    help="the trained weights or their moving average (default: the average, if there is one)",
)
_JSON: Final = Argument("--json", action="store_true", help="print JSON")
_EXPORT: Final = PathArgument("--output", required=True, help="directory to create; must not exist")

_SAMPLE: Final = (
    _CHECKPOINT,
    _WEIGHTS,
    PathArgument("--output", help="directory for the files (default: samples/ of the job or export)"),
    Argument("--count", type=int, metavar="N", help="number of pieces (default: training.sample.count)"),
    Argument("--seed", type=int, metavar="N", help="seed of the first piece (default: training.sample.seed)"),
    PathArgument("--prompt", metavar="FILE", help="MIDI file that every piece continues"),
    Argument(
        "--prompt-quarters",
        type=float,
        metavar="N",
        help="use only the first N quarter notes of the prompt (default: all)",
    ),
    OneOf(
        PathArgument(
            "--vary",
            metavar="FILE",
            help="modes vae and vae-gan: draw latents around those of a MIDI file (see --spread)",
        ),
        PathArgument(
            "--blend",
            metavar="FILE",
            nargs=2,
            help="modes vae and vae-gan: interpolate between the latents of two MIDI files, from the first "
            "piece (the first file) to the last (the second)",
        ),
    ),
    Argument(
        "--spread",
        type=float,
        metavar="N",
        help="distance of the latents from the mean, in standard deviations: of the file's posterior with "
        "--vary, otherwise of the prior (default: 1)",
    ),
    _set("training.sample, for example temperature=0.9"),
    Argument("--json", action="store_true", help="print one line of JSON with the files in base64"),
)

_EVALUATE: Final = (
    _CHECKPOINT,
    _WEIGHTS,
    PathArgument("--dataset", help="a prepared dataset (default: the one the model was trained on)"),
    Argument(
        "--split",
        choices=("validation", "test"),
        help="held-out split to evaluate on (default: test, if it has pieces)",
    ),
    Argument(
        "--stride",
        type=int,
        metavar="N",
        help="tokens between windows of a long piece (default: the context length; smaller is slower and "
        "gives more context)",
    ),
    Argument(
        "--samples",
        type=int,
        default=16,
        metavar="N",
        help="number of pieces to sample and compare with the corpus; 0 samples nothing (default: 16)",
    ),
    PathArgument("--output", metavar="FILE", help="also write the report as JSON to this file"),
    Argument("--json", action="store_true", help="print the report as JSON instead of a table"),
)

_CHECKPOINT_ACTIONS: Final = (
    Command(
        "list",
        "list the complete checkpoints with their sizes and validation losses",
        "checkpoints:show",
        (_JOB_DIR, _JSON),
    ),
    Command(
        "verify",
        "check every file against its sha256; exits with 1 if a checkpoint is damaged",
        "checkpoints:verify",
        (_JOB_DIR, _JSON),
    ),
    Command(
        "export",
        "write weights, configuration and vocabulary to one directory, for use with `sample`",
        "checkpoints:export",
        (_CHECKPOINT, _EXPORT, _WEIGHTS),
    ),
    Command(
        "average",
        "export the mean of the newest checkpoints",
        "checkpoints:export_average",
        (
            _JOB_DIR,
            Argument(
                "--last",
                type=_at_least_one,
                default=3,
                metavar="N",
                help="number of checkpoints to average (default: 3)",
            ),
            _EXPORT,
            _WEIGHTS,
        ),
    ),
    Command(
        "diff",
        "compare two checkpoints or exports; exits with 1 if they differ",
        "checkpoints:diff",
        (
            PathArgument("a", metavar="A", help="directory of a checkpoint or export"),
            PathArgument("b", metavar="B", help="directory of a checkpoint or export"),
            _JSON,
        ),
    ),
)

COMMANDS: Final = (
    Command(
        "train",
        "run a whole job on this machine, without a cluster; resumes when run again",
        "local:train",
        (
            *_JOB,
            *_LOCAL,
            Argument(
                "--http-port",
                type=int,
                default=0,
                metavar="PORT",
                help="port for the job page, /metrics and /progress (default: a free one)",
            ),
        ),
    ),
    Command("prepare", "only write the dataset of a job", "local:prepare", (*_JOB, *_LOCAL)),
    Command("sample", "generate music from a checkpoint: MIDI files and piano rolls", "sample:run", _SAMPLE),
    Command(
        "evaluate",
        "evaluate a model: likelihood of held-out music, and its samples compared with the corpus",
        "evaluate:run",
        _EVALUATE,
    ),
    Command(
        "checkpoints", "inspect, compare and export the checkpoints of a job", actions=_CHECKPOINT_ACTIONS
    ),
    Command("config", "validate a job file and print it with all defaults", "configuration:show", _JOB),
    Command(
        "explain",
        "document the keys of a job file, with units, defaults and bounds",
        "configuration:explain",
        (
            Argument(
                "key",
                nargs="?",
                default="",
                help="only this key and those below it, for example training.model",
            ),
        ),
    ),
    Command("schema", "print the JSON schema of `dataset` and `training`", "configuration:schema"),
    Command(
        "page",
        "serve the page of a job that is no longer running",
        "page:serve",
        (
            _JOB_DIR,
            Argument(
                "--http-port",
                type=int,
                default=9402,
                metavar="PORT",
                help="port to listen on; 0 picks a free one (default: 9402)",
            ),
        ),
    ),
    Command(
        "logs",
        "format JSON log lines from standard input: kubectl logs -f POD | aurl-trainer logs",
        "logs:run",
    ),
    Command(
        "launch",
        "run one role as PID 1 of a pod, configured by the AURL_* variables",
        "launch:run",
        (
            Argument("role", choices=("train", "prepare")),
            PathArgument(
                "--rank-script",
                metavar="FILE",
                help="Python script for each rank to run instead of the trainer",
            ),
        ),
    ),
)
