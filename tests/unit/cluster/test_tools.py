"""The tools in dev/ do not need the tests, and no top-level package hides another."""

from __future__ import annotations

import ast
import sys
from importlib.machinery import PathFinder
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TESTS = {path.stem for path in (ROOT / "tests").iterdir() if path.is_dir() or path.suffix == ".py"}
SOURCES = ("dev", "operator", "trainer", "tests")


def imported(file: Path) -> set[str]:
    """Return the top-level packages that a file imports anywhere."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names}


def test_tools_import_nothing_of_the_tests() -> None:
    files = [file for file in (ROOT / "dev").rglob("*.py") if "node_modules" not in file.parts]
    assert len(files) > 40
    assert {file.name: found for file in files if (found := imported(file) & TESTS)} == {}


def test_no_top_level_name_hides_a_package() -> None:
    names = {
        path.stem
        for source in SOURCES
        for path in (ROOT / source).iterdir()
        if path.suffix == ".py" or (path.is_dir() and any(path.rglob("*.py")))
    }
    elsewhere = [path for path in sys.path if path and not Path(path).is_relative_to(ROOT)]
    packages = [path for path in sys.path if "site-packages" in path]
    hidden = {
        name
        for name in names
        if name in sys.stdlib_module_names
        or ((spec := PathFinder.find_spec(name, [*elsewhere, *packages])) and spec.loader)
    }
    assert hidden == set()
