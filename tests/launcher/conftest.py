from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.harness import RunningLauncher


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningLauncher]]:
    """Start launchers that are gone when the test ends."""
    started: list[RunningLauncher] = []

    def begin(*arguments: object, name: str = "node", **variables: object) -> RunningLauncher:
        launcher = RunningLauncher(tmp_path / f"{name}-{len(started)}", *arguments, **variables)  # type: ignore[arg-type]
        started.append(launcher)
        return launcher

    yield begin
    for launcher in started:
        launcher.stop()
