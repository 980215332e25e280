"""The trainer's packages import one another in one direction, and its decisions are pure functions."""

from __future__ import annotations

from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from imports import imported

ROOT = Path(__file__).resolve().parents[3]
TRAINER = ROOT / "trainer/aurl_trainer"
FILES = sorted(TRAINER.rglob("*.py"))
#: A package or top-level module may import itself and what stands before it.
ORDER = [
    *("contract", "errors", "schema", "logs", "metrics", "system"),
    *("stability", "monitor", "distributed", "memory", "checkpoint"),
    *("data", "model", "losses", "optim", "sampling", "hooks", "config"),
    *("objective", "evaluation", "loop", "build", "train"),
    *("export", "launcher", "cli", "__main__"),
]
PURE = [*(TRAINER / "stability").glob("*.py"), TRAINER / "optim/schedule.py", TRAINER / "memory/search.py"]
IMPURE = {"kopf", "aiohttp", "requests", "urllib", "socket", "subprocess", "time", "os", "random", "torch"}


def top_level(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(file)}


def module(name: str) -> str:
    """The module of the trainer that an imported name is or lies in; '' for the root package."""
    parts = name.split(".")[1:]
    while parts and not (path := TRAINER.joinpath(*parts)).is_dir() and not path.with_suffix(".py").exists():
        parts.pop()
    return ".".join(parts)


def name(file: Path) -> str:
    parts = file.relative_to(TRAINER).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


ARROWS = {
    name(file): {module(full) for full in imported(file) if full.startswith("aurl_trainer.")}
    - {"", name(file)}
    for file in FILES
    if name(file)
}


@pytest.mark.parametrize("stranger", ["aurl_operator", "kopf", "kubernetes"])
def test_the_trainer_keeps_apart(stranger: str) -> None:
    assert len(FILES) > 10
    assert [file for file in FILES if stranger in top_level(file)] == []


def test_the_order_names_every_package() -> None:
    assert {source.split(".")[0] for source in ARROWS} == set(ORDER)


@pytest.mark.parametrize("source", ARROWS)
def test_no_import_points_to_a_higher_package(source: str) -> None:
    allowed = ORDER[: ORDER.index(source.split(".")[0]) + 1]
    assert [target for target in ARROWS[source] if target.split(".")[0] not in allowed] == []


def test_no_modules_import_one_another_in_a_cycle() -> None:
    TopologicalSorter(ARROWS).prepare()


@pytest.mark.parametrize("file", PURE, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_decisions_are_pure(file: Path) -> None:
    assert top_level(file) & IMPURE == set()
