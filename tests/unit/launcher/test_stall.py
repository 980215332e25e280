"""Stalls of ranks, and the stacks that are saved of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aurl_trainer.contract import PodState
from aurl_trainer.launcher.outcome import decide
from aurl_trainer.launcher.rundir import RunDirectory
from aurl_trainer.launcher.stacks import save_stacks
from aurl_trainer.launcher.stall import UNFINISHED, Stall, StallWatch
from aurl_trainer.monitor.snapshot import RankSnapshot


def ranks(*steps: int, state: PodState = "Training", pid: int = 1) -> dict[int, RankSnapshot]:
    return {
        rank: RankSnapshot(rank, rank, len(steps), pid, state=state, step=step)
        for rank, step in enumerate(steps)
    }


def test_a_stall_is_counted_from_the_last_new_step_of_each_rank() -> None:
    watch = StallWatch()
    assert watch.look({}, range(2), 0) is None
    assert watch.look(ranks(5), range(2), 100) is None, "rank 1 has not started yet"
    assert watch.look(ranks(5, 5), range(2), 110) == Stall(10, 5, None)
    assert watch.look(ranks(6, 6), range(2), 120) == Stall(0, 6, None)
    assert watch.look(ranks(7, 6), range(2), 125) == Stall(5, 6, 1)
    assert watch.look(ranks(7, 6), range(2), 150) == Stall(30, 6, 1)
    assert watch.look(ranks(7, 6, pid=2), range(2), 151) == Stall(0, 6, 1), "a new process starts over"


@pytest.mark.parametrize("state", ["Saving", "Finished", "Failed"])
def test_only_ranks_that_must_make_steps_can_stall(state: PodState) -> None:
    watch = StallWatch()
    watch.look(ranks(9, state=state), range(1), 0)
    assert watch.look(ranks(9, state=state), range(1), 10_000) is None


def test_a_rank_that_hangs_in_its_last_save_is_found_at_sigterm() -> None:
    watch = StallWatch()
    watch.look(ranks(9, state="Saving"), range(1), 0)
    assert watch.look(ranks(9, state="Saving"), range(1), 70, UNFINISHED) == Stall(70, 9, None)
    assert watch.look(ranks(9, state="Finished"), range(1), 80, UNFINISHED) is None


def test_the_outcome_of_a_stall_is_a_hang_unless_the_ranks_finished_after_all() -> None:
    stall = Stall(31.4, 0, None)
    seen = RunDirectory()
    outcome = decide(
        seen, expected=range(1), child_exit_code=None, terminated_at=None, oom_kills=0, stall=stall
    )
    assert (outcome.failure_class, outcome.process_exit_code) == ("Hang", 124)
    assert outcome.message == "No new step for 31 s; the ranks hang before the first step."
    done = RunDirectory(results={0: "Finished"})
    outcome = decide(done, expected=range(1), child_exit_code=0, terminated_at=None, oom_kills=0, stall=stall)
    assert outcome.state == "Succeeded"


def test_a_rank_that_cannot_answer_is_described_and_one_without_a_handler_is_not_killed(
    tmp_path: Path,
) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    stopped = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        os.kill(stopped.pid, signal.SIGSTOP)
        os.waitpid(stopped.pid, os.WUNTRACED)  # until it has really stopped
        seen = ranks(3, 3)
        seen[0].pid, seen[1].pid = sleeper.pid, stopped.pid
        (tmp_path / "stack-1.txt").touch()
        assert save_stacks(tmp_path, seen, tmp_path / "stacks", "they hang")
        assert sleeper.poll() is None
        texts = [(tmp_path / "stacks" / f"rank-{rank}.txt").read_text() for rank in (0, 1)]
        assert all("did not write its stacks" in text and "they hang" in text for text in texts)
        assert "T (stopped)" in texts[1]
    finally:
        for process in (sleeper, stopped):
            process.kill()
            process.wait()


def test_a_volume_that_cannot_be_written_only_loses_the_stacks(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not save_stacks(tmp_path, ranks(1, pid=2**22 - 1), tmp_path / "file" / "stacks", "reason")
