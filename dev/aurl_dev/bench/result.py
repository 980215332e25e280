"""The command line, the record of the machine and the JSON file that all benchmarks share."""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

FOLDER = Path("build/bench")


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return a command line with the options of every benchmark."""
    made = argparse.ArgumentParser(
        prog=f"python -m aurl_dev.bench.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--output", type=Path, default=FOLDER / f"{name}.json", help="result (default: %(default)s)"
    )
    made.add_argument(
        "--smallest",
        action="store_true",
        help="run every phase at the smallest size, to check that it works; the figures mean nothing",
    )
    return made


def start(options: argparse.Namespace) -> dict[str, Any]:
    """Return the first entries of a result: the machine, its load now, and versions that affect speed."""
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),  # not imported: it would be most of a memory figure
    }
    return {"machine": machine} | ({"smallest": True} if options.smallest else {})


def write(results: dict[str, Any], options: argparse.Namespace) -> None:
    """Replace the JSON file."""
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=2) + "\n")


def show(results: dict[str, Any], options: argparse.Namespace) -> None:
    """Write the JSON file, and print the results without configurations."""
    write(results, options)
    print(json.dumps({key: value for key, value in results.items() if key != "configuration"}, indent=2))
    print(f"written to {options.output}", flush=True)
