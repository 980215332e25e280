"""Reads the run directory: the files that ranks, agent and preparation leave for the launcher."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aurl_trainer.contract import FINISHED
from aurl_trainer.monitor.failure import Failure, read_failures
from aurl_trainer.monitor.snapshot import (
    PreparationSnapshot,
    RankSnapshot,
    preparation_file,
    rank_file,
    read_json,
    read_snapshot,
)

AGENT_FILE = "agent.json"


@dataclass(frozen=True)
class RankDeath:
    """A rank process that failed, as torchrun saw it; `exit_code` is -n for signal n."""

    rank: int
    exit_code: int


@dataclass(frozen=True)
class RunDirectory:
    """The contents of the run directory at one moment; `results` maps a rank to the state that it ended in.

    `stop_reason` is why training ended before its last step, as the job allows.
    """

    ranks: dict[int, RankSnapshot] = field(default_factory=dict)
    preparation: PreparationSnapshot | None = None
    results: dict[int, str] = field(default_factory=dict)
    stop_reason: str | None = None
    failures: list[Failure] = field(default_factory=list)
    deaths: list[RankDeath] = field(default_factory=list)
    agent_error: str | None = None


def result_file(run_dir: Path, rank: int) -> Path:
    """Return the file in which a rank reports that it ended as planned."""
    return run_dir / f"result-{rank}.json"


def read_ranks(run_dir: Path, ranks: range) -> dict[int, RankSnapshot]:
    """Return the snapshots of the given ranks that exist."""
    found = {rank: read_snapshot(rank_file(run_dir, rank), RankSnapshot) for rank in ranks}
    return {rank: snapshot for rank, snapshot in found.items() if snapshot is not None}


def read_results(run_dir: Path, ranks: range) -> dict[int, str]:
    """Return the final state of those of the given ranks that ended as planned."""
    found = _read_result_files(run_dir, ranks)
    return {rank: str(result.get("state", FINISHED)) for rank, result in found.items()}


def read_run_directory(run_dir: Path, ranks: range) -> RunDirectory:
    """Read everything that the run directory holds about the given ranks."""
    agent = read_json(run_dir / AGENT_FILE) or {}
    return RunDirectory(
        ranks=read_ranks(run_dir, ranks),
        preparation=read_snapshot(preparation_file(run_dir), PreparationSnapshot),
        results=read_results(run_dir, ranks),
        stop_reason=_stop_reason(run_dir, ranks),
        failures=read_failures(run_dir),
        deaths=_deaths(agent),
        agent_error=agent.get("error"),
    )


def _read_result_files(run_dir: Path, ranks: range) -> dict[int, dict[str, Any]]:
    found = {rank: read_json(result_file(run_dir, rank)) for rank in ranks}
    return {rank: result for rank, result in found.items() if result is not None}


def _stop_reason(run_dir: Path, ranks: range) -> str | None:
    results = _read_result_files(run_dir, ranks).values()
    return next((str(result["reason"]) for result in results if result.get("reason")), None)


def _deaths(agent: dict[str, Any]) -> list[RankDeath]:
    deaths = []
    for entry in agent.get("failures") or []:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            deaths.append(RankDeath(int(entry["rank"]), int(entry["exitCode"])))
    return deaths


def clear(run_dir: Path) -> None:
    """Create the run directory and delete the files of an earlier run; raises OSError if that fails."""
    run_dir.mkdir(parents=True, exist_ok=True)
    for pattern in (
        "rank-*.json",
        "failure-*.json",
        "result-*.json",
        "stack-*.txt",
        "prepare.json",
        AGENT_FILE,
    ):
        for path in run_dir.glob(pattern):
            path.unlink(missing_ok=True)
