"""`aurl-trainer page`: the page of a job that is no longer running, from the files in its directory."""

from __future__ import annotations

import argparse
import signal
import time
from pathlib import Path
from typing import Any

from aurl_trainer.contract import Variable
from aurl_trainer.errors import UserError
from aurl_trainer.launcher import jobpage, progress
from aurl_trainer.launcher.environment import read_environment
from aurl_trainer.launcher.history import History, restored
from aurl_trainer.launcher.recorder import HISTORY_FILE
from aurl_trainer.launcher.rundir import RunDirectory
from aurl_trainer.launcher.server import LauncherServer, json_body
from aurl_trainer.monitor.snapshot import read_json


def serve(options: argparse.Namespace) -> int:
    """Serve the page until SIGINT or SIGTERM.

    Raises UserError if the job left no history or the port cannot be bound.
    """
    job_dir, port = options.job_dir.absolute(), options.http_port
    document = read_json(job_dir / HISTORY_FILE)
    if document is None:
        raise UserError(f"{job_dir} has no {HISTORY_FILE}; pass the directory of a job that has trained.")
    history = restored(document)
    routes = jobpage.routes(
        job_dir, lambda: last_progress(history, job_dir), lambda: json_body(history.document())
    )
    try:
        server = LauncherServer(port, routes, jobpage.folders(job_dir))
    except OSError as error:
        raise UserError(f"--http-port {port} cannot be bound: {error.strerror}.") from None
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # inherited by the server's threads; sigwait gets them
    server.start()
    print(f"serving {job_dir.name} at http://127.0.0.1:{server.port}/ until Ctrl-C", flush=True)
    try:
        signal.sigwait(ends)
    finally:
        server.close()
    return 0


def last_progress(history: History, job_dir: Path) -> dict[str, Any]:
    """Return the last `/progress` of the job; without one, a document with little more than its name."""
    if history.progress is not None:
        return history.progress
    attempt = history.attempts[-1].number if history.attempts else 0
    environment = read_environment(
        {
            Variable.JOB_NAME: job_dir.name, Variable.JOB_NAMESPACE: job_dir.parent.name,
            Variable.ATTEMPT: str(attempt), Variable.VOLUME: str(job_dir),
            Variable.RUN_DIR: str(job_dir), Variable.CONFIG: str(job_dir),
        }
    )  # fmt: skip
    began = history.attempts[-1].started_at if history.attempts else time.time()
    return progress.build(
        environment, "train", RunDirectory(), state="Lost", started_at=began, now=time.time()
    )
