"""A rank that reports like the trainer and ends as SCRIPT_END says; no torch, so that it starts at once."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
import urllib.request
from pathlib import Path

from aurl_trainer import logs
from aurl_trainer.errors import DivergenceError, UserError
from aurl_trainer.launcher.rundir import result_file
from aurl_trainer.metrics import StepMetrics
from aurl_trainer.monitor.failure import record_failure, run_directory
from aurl_trainer.monitor.report import RankReporter
from aurl_trainer.monitor.snapshot import write_json
from aurl_trainer.monitor.stacks import answer_with_stacks

ERRORS = {
    "user-error": UserError(
        "training.contextLength is longer than any piece of the dataset; lower it to 64 or less."
    ),
    "divergence": DivergenceError("The loss left its band 3 times."),
    "memory": MemoryError("cannot allocate 12 GiB"),
    "unknown": ZeroDivisionError("division by zero"),
}


def snapshot_of_rank_0(run_dir: Path) -> str:
    """The newest snapshot of rank 0 as text."""
    file = run_dir / "rank-0.json"
    return file.read_text() if file.exists() else ""


def wait_until_remembered(step: int) -> None:
    """Wait until the launcher has this step in its history."""
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{os.environ['AURL_HTTP_PORT']}/history") as answer:
            rows = json.load(answer)["train"]["rows"]
        if rows and rows[-1][0] == step:
            return
        time.sleep(0.02)


def wait_for_ever_on_a_lock() -> None:
    """Wait in C, as a collective does whose peer does not come."""
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def main() -> None:
    logs.setup()
    print("plain words, as a hook may print them")
    logging.getLogger("aurl_trainer.fake").info("the rank begins", extra={"step": 0})
    run_dir = run_directory()
    assert run_dir is not None
    reporter = RankReporter.from_environment()
    rank = reporter.snapshot.rank
    answer_with_stacks(run_dir, rank)
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
    end = os.environ.get("SCRIPT_END", "finish")
    start = int(os.environ.get("SCRIPT_START", "0"))
    mine = rank == int(os.environ.get("SCRIPT_RANK", "0"))
    with record_failure(run_dir, rank):
        reporter.begin(
            mode="transformer",
            precision="fp32",
            total_steps=4,
            start_step=start,
            sequence_length=64,
            batch_size=8,
        )
        reporter.initialised()
        reporter.state("Training")
        for step in range(start + 1, 5):
            with reporter.phase("step"):
                reporter.heartbeat(step)
            metrics = StepMetrics(
                step=step,
                loss=4.0 / step,
                initial_loss=4.0,
                learning_rate=1e-3,
                gradient_norm=1.0,
                sequence_length=64,
                batch_size=8,
                tokens=512,
                samples=8,
                tokens_per_second=1024.0,
                samples_per_second=16.0,
                step_seconds=0.5,
            )
            reporter.log_step(metrics)
            if "SCRIPT_SLOWLY" in os.environ:
                reporter.publish()
                wait_until_remembered(step)
        volume = Path(os.environ["AURL_VOLUME"])
        reporter.checkpoint(4, volume / "music" / "chorales" / "checkpoints" / "step-00000004", 0.1)
        message = os.environ.get("SCRIPT_EVENT", "step-00000002 does not match its checksum.")
        reporter.event("CheckpointDamaged", 4, message)
        # What rank 0 has reported must be there when another rank fails, or torchrun may end rank 0 before.
        while mine and rank != 0 and "step-00000004" not in snapshot_of_rank_0(run_dir):
            time.sleep(0.02)
        if end in ERRORS and mine:
            raise ERRORS[end]
        if end == "kill" and mine:
            os.kill(os.getpid(), signal.SIGKILL)
        if end == "exit" and mine:
            sys.exit(7)
        if end == "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(1)
        if end == "deadlock":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            wait_for_ever_on_a_lock()
        while end not in ("finish",) and not stop:
            time.sleep(0.02)
    reporter.close()
    write_json(result_file(run_dir, rank), {"state": "Interrupted" if stop else "Finished"})


main()
