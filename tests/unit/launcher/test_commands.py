"""The command line on good and bad job files: sentences with paths, never a traceback."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from aurl_trainer.cli.command import Command
from aurl_trainer.cli.commands import COMMANDS
from aurl_trainer.cli.main import run

BARE: dict[str, Any] = {"dataset": {"source": {"directory": {"path": "midi"}}}, "training": {"steps": 200}}
WHOLE: dict[str, Any] = {
    "apiVersion": "aurl.ai/v1alpha1", "kind": "AurlTrainingJob", "metadata": {"name": "a-job"},
    "spec": {"numNodes": 2, "numProcPerNode": 3, "storage": {"claimName": "x"}, **BARE},
}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "changes", "words"),
    [
        ("{", [], "is not valid YAML"),
        ("[1]", [], "must hold a mapping"),
        ("\xff\xfe", [], "must hold a mapping"),
        (yaml.safe_dump(BARE | {"training": {"stepz": 3}}), [], "training.stepz: unknown key"),
        (yaml.safe_dump(WHOLE), ["training.steps=-1"], "spec.training.steps: "),
        (
            yaml.safe_dump(WHOLE | {"spec": WHOLE["spec"] | {"numNodes": 0}}),
            [],
            "spec.numNodes: must be an integer",
        ),
        (yaml.safe_dump(BARE), ["steps=3"], "--set steps=3"),
        (yaml.safe_dump(BARE), ["training.steps"], "--set training.steps: write KEY=VALUE"),
        (yaml.safe_dump(BARE), ["training.steps.x=3"], "training.steps has no keys"),
        (yaml.safe_dump(BARE), ["training.steps=["], "the value is not valid YAML"),
    ],
)
def test_bad_job_files_are_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, changes: list[str], words: str
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(content, encoding="utf-8")
    sets = [part for change in changes for part in ("--set", change)]
    assert run(["config", "--job", str(file), *sets]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert words in output.err


def test_a_job_resolves_to_the_same_bare_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(WHOLE))
    assert run(["config", "--job", str(file), "--set", "spec.training.model.layers=2"]) == 0
    resolved = capsys.readouterr().out
    bare = tmp_path / "bare.yaml"
    bare.write_text(resolved)
    assert yaml.safe_load(resolved)["training"]["model"]["layers"] == 2
    assert run(["config", "--job", str(bare)]) == 0
    assert capsys.readouterr().out == resolved


def test_every_key_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    keys = [index for index, line in enumerate(lines) if not line.startswith(" ") and line]
    assert len(keys) > 50
    assert [lines[index] for index in keys if not lines[index + 1].strip()] == []
    assert run(["explain", "training.nope"]) == 2


def test_the_schema_is_the_operators(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert set(schema) == {"dataset", "training"}
    assert schema["training"]["additionalProperties"] is False


@pytest.mark.parametrize("action", ["list", "verify"])
def test_a_job_without_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str], action: str) -> None:
    assert run(["checkpoints", action, "--job-dir", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"checkpoints": []}
    assert run(["checkpoints", action, "--job-dir", str(tmp_path / "nope")]) == 2


def _leaves(commands: Sequence[Command]) -> Iterator[Command]:
    for command in commands:
        yield from _leaves(command.actions) if command.actions else [command]


@pytest.mark.parametrize("command", list(_leaves(COMMANDS)), ids=lambda command: command.run)
def test_every_command_names_a_function(command: Command) -> None:
    module, _, function = command.run.partition(":")
    assert callable(getattr(importlib.import_module(f"aurl_trainer.cli.{module}"), function))
