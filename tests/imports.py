"""Reads the imports of a module, for tests of the structure."""

from __future__ import annotations

import ast
from pathlib import Path


def imported(file: Path) -> set[str]:
    """The full names of all that a file imports, wherever in it: `from a import b` is `a.b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found
