"""The tables of docs/contracts.md and the names that operator and trainer share are the same."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import get_args

from aurl_trainer import contract
from aurl_trainer.launcher.environment import read_environment
from aurl_trainer.launcher.outcome import Outcome
from aurl_trainer.launcher.progress import build
from aurl_trainer.launcher.rundir import RunDirectory
from aurl_trainer.launcher.termination import build as build_termination

PAGE = (Path(__file__).parents[3] / "docs/contracts.md").read_text()


def names(before: str) -> list[str]:
    """The names in the first column of the first table after a text, in their order."""
    table = PAGE.partition(before)[2].partition("\n|---|")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


def cell(before: str, name: str) -> str:
    """The meaning of a name in the first table after a text."""
    found = re.search(rf"^\| .*`{name}`.*? \| (.*) \|$", PAGE.partition(before)[2], re.MULTILINE)
    assert found is not None
    return found.group(1)


def test_every_variable_is_documented_once() -> None:
    assert sorted(names("Read-only root")) == sorted([*map(str, contract.Variable), "HOME"])
    assert all(name.startswith(contract.VARIABLE_PREFIX) for name in contract.Variable)
    assert f"{contract.CONFIG_DIR}/{contract.CONFIG_FILE}" in cell("Read-only root", "AURL_CONFIG")
    for name, value in (
        ("VOLUME", contract.VOLUME_DIR), ("RUN_DIR", contract.RUN_DIR), ("HTTP_PORT", contract.HTTP_PORT),
        ("RDZV_ENDPOINT", contract.RENDEZVOUS_PORT),
    ):  # fmt: skip
        assert str(value) in cell("Read-only root", f"AURL_{name}")


def test_progress_has_the_documented_keys() -> None:
    environment = read_environment({"AURL_CONFIG": "c", "AURL_VOLUME": "v", "AURL_RUN_DIR": "r"})
    answer = build(environment, "train", RunDirectory(), state=None, started_at=0.0, now=0.0)
    assert sorted(names("`GET /progress` (JSON)")) == sorted(map(str, answer))
    assert set(contract.ProgressKey) <= set(answer)
    states = cell("`GET /progress` (JSON)", "state")
    assert re.findall(r"`(\w+)`", states) == list(get_args(contract.PodState))


def test_the_termination_message_has_the_documented_keys() -> None:
    message = build_termination(Outcome(contract.SUCCEEDED, ""), {}, {})
    before = "Termination message (JSON"
    assert sorted(names(before)) == sorted(map(str, message))
    assert re.findall(r"`(\w+)`", cell(before, "state")) == list(get_args(contract.EndState))
    classes = re.findall(r"`(\w+)`", cell(before, "class"))
    assert sorted(classes) == sorted(get_args(contract.ReportedClass))
    assert re.findall(r"\w+", cell(before, "dataset").partition("{")[2]) == list(
        map(str, contract.DatasetKey)
    )
    assert f"≤ {contract.TERMINATION_MESSAGE_LIMIT} bytes" in PAGE


def test_exit_codes_are_the_documented_ones() -> None:
    codes = PAGE.partition("Exit codes: ")[2].partition("\n")[0]
    documented = {int(code) for code in re.findall(r"(?:^|; )(\d+) (?!\+)", codes)}
    assert documented == {0, 1, contract.INTERRUPTED_EXIT_CODE, *contract.EXIT_CODES.values()}


def test_the_contract_imports_the_standard_library_only() -> None:
    tree = ast.parse(Path(contract.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
