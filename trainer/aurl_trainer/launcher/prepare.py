"""The work of role prepare: writes the dataset and reports its progress."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from pathlib import Path

from aurl_trainer import logs
from aurl_trainer.config import JobFile
from aurl_trainer.contract import DatasetKey, Variable
from aurl_trainer.data.prepare import Prepared, prepare
from aurl_trainer.errors import UserError
from aurl_trainer.monitor.failure import record_failure
from aurl_trainer.monitor.goodput import GoodputFile
from aurl_trainer.monitor.report import MAX_MESSAGE, MIN_INTERVAL
from aurl_trainer.monitor.snapshot import JobEvent, PreparationSnapshot, preparation_file, write_json

log = logging.getLogger(__name__)


class PreparationReporter:
    """Keeps the preparation's snapshot file current."""

    def __init__(self, run_dir: Path) -> None:
        self._file = preparation_file(run_dir)
        self._next_write = 0.0
        now = time.time()
        self.snapshot = PreparationSnapshot(started_at=now, updated_at=now)
        self.publish()

    def progress(self, done: int, total: int, dropped: int) -> None:
        """Report how many files are done, including dropped ones."""
        snapshot = self.snapshot
        snapshot.files_done, snapshot.files_total, snapshot.files_dropped = done, total, dropped
        if time.time() >= self._next_write:
            self.publish()

    def publish(self) -> None:
        """Replace the snapshot file now; if the run directory is full, the values stay old."""
        self.snapshot.updated_at = time.time()
        self._next_write = self.snapshot.updated_at + MIN_INTERVAL
        with contextlib.suppress(OSError):
            write_json(self._file, self.snapshot)

    def finish(self, prepared: Prepared, volume: Path) -> None:
        """Report the dataset, with its path relative to `volume`."""
        path = prepared.path
        with contextlib.suppress(ValueError):
            path = path.relative_to(volume)
        self.snapshot.state = "Finished"
        if prepared.dropped:
            names = ", ".join(prepared.dropped_names)
            of = f"{prepared.dropped} of {prepared.files + prepared.dropped + prepared.duplicates} files"
            message = f"{of} could not be used: {names}"[:MAX_MESSAGE]
            self.snapshot.events.append(JobEvent(time.time(), "FilesDropped", None, message))
        if prepared.leak:
            self.snapshot.events.append(JobEvent(time.time(), "SplitLeak", None, prepared.leak[:MAX_MESSAGE]))
        self.snapshot.dataset = {
            DatasetKey.FINGERPRINT: prepared.fingerprint,
            DatasetKey.PATH: path.as_posix(),
            DatasetKey.FILES: prepared.files,
            DatasetKey.DROPPED: prepared.dropped,
            DatasetKey.DROPPED_NAMES: prepared.dropped_names,
            DatasetKey.TRAIN_TOKENS: prepared.train_tokens,
        }
        self.publish()


def main() -> int:
    """Prepare the dataset of the job in the environment and return the exit code."""
    logs.setup()
    run_dir, volume = Path(os.environ[Variable.RUN_DIR]), Path(os.environ[Variable.VOLUME])
    try:
        with record_failure(run_dir, None):
            reporter = PreparationReporter(run_dir)
            job = JobFile.load(Path(os.environ[Variable.CONFIG]))
            job_dir = Path(os.environ[Variable.JOB_DIR])
            reporter.finish(prepare(job.dataset, job_dir, volume, reporter.progress), volume)
            accounts = GoodputFile(job_dir, reporter.snapshot.started_at)
            accounts.settle({"preparation": reporter.snapshot.updated_at - reporter.snapshot.started_at})
            accounts.write()
    except UserError as error:
        log.error(str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
