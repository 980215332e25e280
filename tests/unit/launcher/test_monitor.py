"""The reports of a rank: snapshots, phases that add up, classified failures."""

from __future__ import annotations

import errno
import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurl_trainer.errors import DivergenceError, HangError, PeerLostError, UserError
from aurl_trainer.monitor.failure import classify, essence, read_failures, record_failure
from aurl_trainer.monitor.report import MAX_EVENTS, RankReporter
from aurl_trainer.monitor.snapshot import PHASES, RankSnapshot, rank_file, read_snapshot
from aurl_trainer.stability.anomaly import Action, Anomaly
from metric_records import step_metrics

GLOO = "[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] "
NCCL = (
    "NCCL error in: ../torch/csrc/distributed/c10d/NCCLUtils.hpp:275, remote process exited or there was a "
    "network error, NCCL version 2.21.5\nncclRemoteError: A call failed possibly due to a network error or a "
    "remote process exiting prematurely.\n"
)


def reporter(tmp_path: Path, rank: int = 0) -> RankReporter:
    return RankReporter.from_environment(
        {"AURL_RUN_DIR": str(tmp_path), "AURL_VOLUME": "/mnt/aurl", "RANK": str(rank), "WORLD_SIZE": "2"}
    )


def begin(target: RankReporter) -> None:
    target.begin(
        mode="transformer",
        precision="fp32",
        total_steps=9,
        start_step=4,
        sequence_length=64,
        batch_size=8,
        tokens_before=100,
    )


def test_a_snapshot_reads_as_it_was_written(tmp_path: Path) -> None:
    rank = reporter(tmp_path)
    begin(rank)
    rank.heartbeat(5)
    metrics = step_metrics(step=6, loss=float("inf"), tokens=1024, samples=16, terms={"z_loss": 1.5})
    rank.log_step(metrics)
    rank.checkpoint(6, Path("/mnt/aurl/ns/job/checkpoints/step-00000006"), 0.5)
    rank.skipped("nonfinite", 2)
    rank.anomaly(Anomaly.OUT_OF_MEMORY, Action.REDUCE_BATCH_SIZE)
    rank.event("Spike", 6, "x" * 10_000)
    read = read_snapshot(rank_file(tmp_path, 0), RankSnapshot)
    assert read == rank.snapshot
    assert read is not None and read.job is not None and read.job.last_checkpoint is not None
    assert read.job.last_checkpoint.path == "ns/job/checkpoints/step-00000006"
    assert (read.job.metrics, read.job.tokens, read.job.samples) == (metrics, 1024, 16)
    assert read.job.skipped_steps == {"nonfinite": 2, "spike": 0}
    assert read.job.anomalies["OutOfMemory"] == {"reduce_batch_size": 1, "stop": 0}
    assert not list(tmp_path.glob(".*"))


def test_only_rank_0_reports_for_the_job(tmp_path: Path) -> None:
    begin(reporter(tmp_path, rank=1))
    read = read_snapshot(rank_file(tmp_path, 1), RankSnapshot)
    assert read is not None and read.job is None and read.step == 4


def test_an_action_that_an_anomaly_cannot_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="DataStarvation has no action rollback: it must be one of warn"):
        reporter(tmp_path).anomaly(Anomaly.DATA_STARVATION, Action.ROLLBACK)


def test_events_are_bounded(tmp_path: Path) -> None:
    rank = reporter(tmp_path)
    for step in range(MAX_EVENTS + 10):
        rank.event("Spike", step, "a spike")
    assert [event.step for event in rank.snapshot.events] == list(range(10, MAX_EVENTS + 10))


@given(st.lists(st.tuples(st.sampled_from(PHASES), st.booleans()), max_size=12))
def test_phases_add_up_to_wall_clock_however_they_nest(plan: list[tuple[str, bool]]) -> None:
    rank = RankReporter(None)

    def run(rest: list[tuple[str, bool]]) -> None:
        if rest:
            (name, nested), *others = rest
            with rank.phase(name):
                if nested:
                    run(others)
            if not nested:
                run(others)

    run(plan)
    rank.initialised()
    rank.publish()
    total = sum(rank.snapshot.phase_seconds.values())
    assert total == pytest.approx(rank.snapshot.updated_at - rank.snapshot.started_at, abs=0.2)


def test_a_phase_that_fails_ends_too() -> None:
    rank = RankReporter(None)
    rank.initialised()
    with pytest.raises(ZeroDivisionError), rank.phase("checkpoint"), rank.phase("other"):
        raise ZeroDivisionError
    rank.publish()
    assert rank.snapshot.phase == "other"


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_a_damaged_snapshot_is_none(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rank-0.json"
        path.write_bytes(content)
        assert read_snapshot(path, RankSnapshot) is None


def test_reporting_never_stops_the_training(tmp_path: Path) -> None:
    rank = reporter(tmp_path / "gone")
    rank.state("Training")
    rank.close()


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


@pytest.mark.parametrize(
    ("exception", "failure_class", "peer_lost"),
    [
        (UserError("No."), "UserError", False),
        (DivergenceError("Gone."), "Divergence", False),
        (HangError("Rank 1 waited."), "Hang", False),
        (PeerLostError("rank 2 broke off."), "Infrastructure", True),
        (MemoryError(), "OutOfMemory", False),
        (OutOfMemoryError("CUDA out of memory."), "OutOfMemory", False),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
            "OutOfMemory",
            False,
        ),
        (ConnectionResetError("Connection reset by peer"), "Infrastructure", True),
        (OSError(errno.ENOSPC, "No space left on device"), "UserError", False),
        (OSError(errno.ESTALE, "Stale file handle"), "Infrastructure", False),
        (TimeoutError("timed out waiting for rank 1"), "Hang", False),
        (ValueError("x"), "Unknown", False),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "Hardware", False),
        (
            RuntimeError("CUDA error: uncorrectable NVLink error detected during the execution"),
            "Hardware",
            False,
        ),
        (RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"), "Hardware", False),
        (
            RuntimeError(f"{NCCL}Last error:\nCuda failure 'uncorrectable ECC error encountered'"),
            "Hardware",
            False,
        ),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "Unknown", False),
        (
            RuntimeError("CUDA error: CUDA driver version is insufficient for CUDA runtime version"),
            "Unknown",
            False,
        ),
    ],
)
def test_classes_of_exceptions(exception: BaseException, failure_class: str, peer_lost: bool) -> None:
    assert classify(exception) == (failure_class, peer_lost)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            f"{GLOO}Connection closed by peer [127.0.0.1]:720. This is typically caused by a remote worker "
            "crashing. Check the logs of the remote worker before reporting an error. GLHF! 🏖️",
            "Connection closed by peer [127.0.0.1]:720",
        ),
        (
            f"{NCCL}Last error:\nsocketProgress: Connection closed by remote peer 10.0.0.5<43210>",
            "socketProgress: Connection closed by remote peer 10.0.0.5<43210>",
        ),
        (NCCL, NCCL.partition("\n")[0]),
        ("A sentence. Another one.\nMore.", "A sentence. Another one."),
        ("", ""),
    ],
)
def test_messages_of_libraries_are_cut_to_what_helps(text: str, expected: str) -> None:
    assert essence(text) == expected


def test_failures_are_read_in_the_order_they_happened(tmp_path: Path) -> None:
    for rank, error in ((1, UserError("First.\nSecond line.")), (0, ValueError(""))):
        with pytest.raises(type(error)), record_failure(tmp_path, rank):
            raise error
        time.sleep(0.002)
    (tmp_path / "failure-7.json").write_text("{")
    first, second = read_failures(tmp_path)
    assert (first.rank, first.message, first.exception) == (1, "First.", "UserError")
    assert (second.rank, second.message) == (0, "ValueError")
    assert any("raise error" in line for line in second.lines)


def test_exiting_with_success_is_not_a_failure(tmp_path: Path) -> None:
    with pytest.raises(SystemExit), record_failure(tmp_path, 0):
        raise SystemExit(0)
    assert read_failures(tmp_path) == []
