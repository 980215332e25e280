"""Who may import whom in the trainer; the operator has tests/unit/structure/test_operator_imports.py."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TRAINER = ROOT / "trainer/aurl_trainer"
PURE = [TRAINER / "optim/schedule.py"]
IMPURE = {"kopf", "aiohttp", "requests", "urllib", "socket", "subprocess", "time", "os", "random"}


def imported(file: Path) -> set[str]:
    """The top-level packages that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize(("package", "stranger"), [(TRAINER, "aurl_operator")])
def test_packages_keep_apart(package: Path, stranger: str) -> None:
    files = sorted(package.rglob("*.py"))
    assert len(files) > 10
    assert [file.name for file in files if stranger in imported(file)] == []


def test_the_trainer_needs_no_kubernetes() -> None:
    assert [file for file in TRAINER.rglob("*.py") if imported(file) & {"kopf", "kubernetes"}] == []


@pytest.mark.parametrize("file", PURE, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_pure_cores_are_pure(file: Path) -> None:
    assert imported(file) & IMPURE == set()
