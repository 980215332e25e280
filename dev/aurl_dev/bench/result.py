"""What every benchmark tells beside its figures, and where it writes them."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

FOLDER = Path("build/bench")


def machine() -> dict[str, Any]:
    """The machine, its load before the measurement, and the versions that speed depends on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),  # not imported: it would be most of a memory figure
    }


def write(name: str, results: dict[str, Any]) -> Path:
    """Replace `build/bench/<name>.json`."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    return path
