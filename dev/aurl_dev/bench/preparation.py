"""One preparation in a separate process: `python -m aurl_dev.bench.preparation ROOT FILES WORKERS NUMBER`.

Prints speed and memory as one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

from aurl_dev.bench.process import memory_mib
from aurl_trainer.data.config import DatasetConfig
from aurl_trainer.data.prepare import prepare
from aurl_trainer.launcher.processes import descendants


def main(root: str, count: str, workers: str, number: str) -> None:
    """Prepare the corpus of `count` files below `root`."""
    config = DatasetConfig.model_validate(
        {"source": {"directory": {"path": "midi", "pattern": f"{count}/*"}}, "workers": int(workers)}
    )
    done, peak = threading.Event(), 0.0

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, sum(memory_mib("VmRSS", pid) for pid in (os.getpid(), *descendants())))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    began = time.perf_counter()
    prepared = prepare(config, Path(root) / f"job-{count}-{workers}-{number}", Path(root), lambda *_: None)
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    figures = {
        "files": prepared.files,
        "workers": int(workers),
        "files_per_second": round(prepared.files / seconds, 1),
        "peak_rss_mib": round(memory_mib("VmHWM"), 1),
        "peak_rss_mib_of_all_processes": round(peak, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
