"""Run a benchmark at its smallest size, as `make bench-…` does, and read the JSON file that it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from aurl_dev.cluster.paths import CHECKOUT

SOURCES = os.pathsep.join(str(CHECKOUT / part) for part in ("dev", "operator", "trainer"))


def run_smallest(name: str, folder: Path, *words: str) -> dict[str, Any]:
    """Return the results of `python -m aurl_dev.bench.<name> --smallest`."""
    output = folder / f"{name}.json"
    command = [sys.executable, "-m", f"aurl_dev.bench.{name}", "--smallest", "--output", str(output), *words]
    done = subprocess.run(
        command,
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": SOURCES},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    results: dict[str, Any] = json.loads(output.read_text())
    assert results["smallest"]
    assert {"processor", "cpus", "load_before", "python", "torch"} <= results["machine"].keys()
    return results


def assert_positive(figures: dict[str, Any], *names: str) -> None:
    """Fail unless each of these figures is there and above zero."""
    assert {name: figures[name] for name in names if not figures[name] > 0} == {}
