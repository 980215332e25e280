"""The job page: its static files, and the JSON and sampled music that it shows; read-only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from aurl_trainer.contract import PROGRESS_PATH
from aurl_trainer.launcher.artifacts import Artifacts, read_sample
from aurl_trainer.launcher.server import JSON_TYPE, Folder, Route, json_body

FOLDER: Final = Path(__file__).with_name("page")

TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def routes(
    job_dir: Path, progress: Callable[[], dict[str, Any]], history: Callable[[], bytes]
) -> dict[str, Route]:
    """Return the routes of the page at `/` and of its data: /progress, /history and /artifacts."""
    artifacts = Artifacts(job_dir)
    files = {f"/{file.name}": _file(file) for file in sorted(FOLDER.iterdir()) if file.suffix in TYPES}
    return {
        "/": files.pop("/index.html"),
        **files,
        PROGRESS_PATH: (JSON_TYPE, lambda: json_body(progress())),
        "/history": (JSON_TYPE, history),
        "/artifacts": (JSON_TYPE, lambda: json_body(artifacts.contents())),
    }


def folders(job_dir: Path) -> dict[str, Folder]:
    """Return the folders of the page: the sampled music of the job."""
    return {"/samples/": lambda name: read_sample(job_dir, name)}


def _file(file: Path) -> Route:
    return TYPES[file.suffix], file.read_bytes
