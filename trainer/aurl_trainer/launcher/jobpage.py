"""The job's own page: its files, and the JSON and music that it shows. Everything is read only."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from aurl_trainer.launcher.server import Route

FOLDER: Final = Path(__file__).with_name("page")

TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def routes() -> dict[str, Route]:
    """Return a route for each file of the page; `/` is the page itself."""
    found = {f"/{file.name}": _route(file) for file in sorted(FOLDER.iterdir()) if file.suffix in TYPES}
    return {"/": found.pop("/index.html"), **found}


def _route(file: Path) -> Route:
    return TYPES[file.suffix], file.read_bytes
