"""The operator's packages import one another in one direction, and its core is pure."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from imports import imported

ROOT = Path(__file__).resolve().parents[3]
OPERATOR = ROOT / "operator/aurl_operator"
FILES = sorted(OPERATOR.rglob("*.py"))
#: A package may import itself and what stands before it; the top level is last. `crd` is a tool beside them.
ORDER = ["api", "core", "kube", "serve", "top"]
TOP_LEVEL = {"__init__", "__main__", "apply", "leadership", "main", "reconciler", "settings"}
#: Everything that api and core may import: HTTP, kopf, asyncio, clocks and anything new is not in it.
PURE = {
    *("__future__", "collections", "dataclasses", "datetime", "enum", "functools", "hashlib", "itertools"),
    *("json", "math", "re", "signal", "statistics", "types", "typing"),
    *("aurl_operator", "jsonschema", "pydantic", "yaml"),
}
PURE_FILES = [file for file in FILES if file.relative_to(OPERATOR).parts[0] in ("api", "core")]
CLOCKS = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today"}


def package(parts: tuple[str, ...]) -> str:
    """The package of a module given as path or name below aurl_operator; `top` for none."""
    return parts[0] if (OPERATOR / parts[0]).is_dir() else "top"


def name(file: Path) -> str:
    return str(file.relative_to(OPERATOR))


@pytest.mark.parametrize("stranger", ["aurl_trainer", "torch", "kubernetes", "requests"])
def test_the_operator_keeps_apart(stranger: str) -> None:
    assert len(FILES) > 10
    assert [name(file) for file in FILES if stranger in {full.split(".")[0] for full in imported(file)}] == []


def test_only_the_shell_stays_at_the_top_level() -> None:
    assert {file.stem for file in OPERATOR.glob("*.py")} <= TOP_LEVEL


@pytest.mark.parametrize("file", FILES, ids=name)
def test_no_import_points_to_a_higher_package(file: Path) -> None:
    own = package(file.relative_to(OPERATOR).parts)
    allowed = {"api", "crd"} if own == "crd" else set(ORDER[: ORDER.index(own) + 1])
    below = [full.split(".")[1:] for full in imported(file) if full.startswith("aurl_operator.")]
    # The version, in __init__.py, is for everybody.
    targets = {package(tuple(parts)): ".".join(parts) for parts in below if parts != ["__version__"]}
    assert {target: why for target, why in targets.items() if target not in allowed} == {}


@pytest.mark.parametrize("file", PURE_FILES, ids=name)
def test_api_and_core_are_pure(file: Path) -> None:
    pure = PURE | {"importlib"} if file.name == "training_schema.py" else PURE
    assert {full.split(".")[0] for full in imported(file)} - pure == set()


@pytest.mark.parametrize("file", PURE_FILES, ids=name)
def test_api_and_core_read_no_clock(file: Path) -> None:
    attributes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)]
    # The last two names of an expression: `datetime.now`, also in `datetime.datetime.now`.
    names = {".".join(ast.unparse(node).split(".")[-2:]) for node in attributes}
    assert names & CLOCKS == set()
