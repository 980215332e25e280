"""Every command of `aurl-trainer`: its name, help, function and arguments.

The table is apart from the functions because most of their modules import torch, and `launch` must not.
"""

from __future__ import annotations

import argparse
from typing import Final

from aurl_trainer.cli.command import (
    DIRECTORY,
    FILE,
    FLAG,
    FLOAT,
    NUMBER,
    PORT,
    Argument,
    Command,
    OneOf,
)


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _set(what: str) -> Argument:
    text = f"override one key of {what}; repeatable"
    return Argument("--set", text, dest="changes", action="append", default=[], metavar="KEY=VALUE")


_JOB: Final = (
    Argument("--job", "job file, or a bare file with `dataset` and `training`", required=True, **FILE),
    _set("the job file, for example training.steps=50"),
)
_LOCAL: Final = (
    Argument("--output", "directory for all output (default: build/train/<name of the job>)", **DIRECTORY),
    Argument("--verbose", "show the logs of all processes instead of a summary", **FLAG),
)
_JOB_DIR: Final = Argument("--job-dir", "directory of the job", required=True, **DIRECTORY)
_CHECKPOINT: Final = OneOf(
    Argument("--job-dir", "directory of a job; uses its newest checkpoint", **DIRECTORY),
    Argument("--checkpoint", "directory of a checkpoint or export", **DIRECTORY),
    required=True,
)
_WEIGHTS: Final = Argument(
    "--weights",
    "the trained weights or their moving average (default: the average, if there is one)",
    choices=("trained", "ema"),
)
_JSON: Final = Argument("--json", "print JSON", **FLAG)
_EXPORT: Final = Argument("--output", "directory to create; must not exist", required=True, **DIRECTORY)

_SAMPLE: Final = (
    _CHECKPOINT,
    _WEIGHTS,
    Argument("--output", "directory for the files (default: samples/ of the job or export)", **DIRECTORY),
    Argument("--count", "number of pieces (default: training.sample.count, at least 1)", **NUMBER),
    Argument("--seed", "seed of the first piece (default: training.sample.seed)", **NUMBER),
    Argument("--prompt", "MIDI file that every piece continues", **FILE),
    Argument("--prompt-quarters", "use only the first N quarter notes of the prompt (default: all)", **FLOAT),
    OneOf(
        Argument(
            "--vary", "modes vae and vae-gan: draw latents around those of a MIDI file (see --spread)", **FILE
        ),
        Argument(
            "--blend",
            "modes vae and vae-gan: interpolate between the latents of two MIDI files, from the first piece "
            "(the first file) to the last (the second)",
            nargs=2,
            **FILE,
        ),
    ),
    Argument(
        "--spread",
        "distance of the latents from the mean, in standard deviations: of the file's posterior with --vary, "
        "otherwise of the prior (default: 1)",
        **FLOAT,
    ),
    _set("training.sample, for example temperature=0.9"),
    Argument("--json", "print one line of JSON with the files in base64", **FLAG),
)

_EVALUATE: Final = (
    _CHECKPOINT,
    _WEIGHTS,
    Argument("--dataset", "a prepared dataset (default: the one the model was trained on)", **DIRECTORY),
    Argument(
        "--split",
        "held-out split to evaluate on (default: test, if it has pieces)",
        choices=("validation", "test"),
    ),
    Argument(
        "--stride",
        "tokens between windows of a long piece (default: the context length; smaller is slower and gives "
        "more context)",
        **NUMBER,
    ),
    Argument(
        "--samples",
        "number of pieces to sample and compare with the corpus; 0 samples nothing (default: 16)",
        default=16,
        **NUMBER,
    ),
    Argument("--output", "also write the report as JSON to this file", **FILE),
    Argument("--json", "print the report as JSON instead of a table", **FLAG),
)

_LAST: Final = Argument(
    "--last", "number of checkpoints to average (default: 3)", default=3, **NUMBER | {"type": _at_least_one}
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
        (_JOB_DIR, _LAST, _EXPORT, _WEIGHTS),
    ),
    Command(
        "diff",
        "compare two checkpoints or exports; exits with 1 if they differ",
        "checkpoints:diff",
        (
            *(
                Argument(side, "directory of a checkpoint or export", **DIRECTORY | {"metavar": side.upper()})
                for side in ("a", "b")
            ),
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
                "port for the job page, /metrics and /progress (default: a free one)",
                default=0,
                **PORT,
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
        (Argument("key", "only this key and those below it, such as training.model", nargs="?", default=""),),
    ),
    Command("schema", "print the JSON schema of `dataset` and `training`", "configuration:schema"),
    Command(
        "page",
        "serve the page of a job that is no longer running",
        "page:serve",
        (
            _JOB_DIR,
            Argument(
                "--http-port", "port to listen on; 0 picks a free one (default: 9402)", default=9402, **PORT
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
            Argument("--rank-script", "Python script for each rank to run instead of the trainer", **FILE),
        ),
    ),
)
