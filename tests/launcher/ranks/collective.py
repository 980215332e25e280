"""A rank that talks to its peers by gloo for ever, or until SCRIPT_FORGETS stops doing so after step 3."""

from __future__ import annotations

import itertools
import os
import time

import torch
import torch.distributed as dist

from aurl_trainer.metrics import StepMetrics
from aurl_trainer.monitor.failure import record_failure, run_directory
from aurl_trainer.monitor.report import RankReporter
from aurl_trainer.monitor.stacks import answer_with_stacks


def forget_the_others() -> None:
    """Do something else for ever while the peers wait."""
    while True:
        time.sleep(1)


def main() -> None:
    run_dir = run_directory()
    assert run_dir is not None
    with record_failure(run_dir, int(os.environ["RANK"])):
        dist.init_process_group("gloo")
        # Only now: a launcher that watches for hangs does not count the time in which torch is imported.
        reporter = RankReporter.from_environment()
        reporter.begin(
            mode="transformer", precision="fp32", total_steps=3, start_step=0, sequence_length=8, batch_size=2
        )
        reporter.state("Training")
        answer_with_stacks(run_dir, reporter.snapshot.rank)
        for step in itertools.count(1):
            if step == 4 and os.environ.get("SCRIPT_FORGETS") == str(dist.get_rank()):
                forget_the_others()
            total = torch.tensor([float(dist.get_rank() + 1)])
            dist.all_reduce(total)
            reporter.heartbeat(step)
            metrics = StepMetrics(
                step=step,
                loss=float(total),
                initial_loss=4.0,
                learning_rate=0.1,
                gradient_norm=0.0,
                sequence_length=8,
                batch_size=2,
                tokens=16,
                samples=2,
                tokens_per_second=160.0,
                samples_per_second=20.0,
                step_seconds=0.1,
            )
            reporter.log_step(metrics)
            time.sleep(0.02)


main()
