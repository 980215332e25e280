"""Runs real jobs, forked or under torchrun: music written as MIDI, a job file, and the ranks' processes."""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Protocol

import yaml

from aurl_dev.melodies import write_music
from aurl_dev.ports import free_port
from aurl_dev.waiting import wait_for
from torchrun.rank import run_rank

TRAINER = Path(__file__).resolve().parents[2] / "trainer"
DEADLINE = 300.0
LOCALHOST = "127.0.0.1"

DATASET: dict[str, Any] = {
    "source": {"directory": {"path": "midi"}},
    "tokenizer": {
        "positionsPerQuarter": 4,
        "maxDurationQuarters": 2,
        "tracks": 1,
        "programs": False,
        "drums": False,
        "velocityBins": 0,
        "tempoBins": 0,
        "lowestPitch": 48,
        "highestPitch": 84,
    },
    "split": {"validationFraction": 0.2, "testFraction": 0.0},
    "workers": 1,
}

TRAINING: dict[str, Any] = {
    "steps": 24,
    "contextLength": 16,
    "device": "cpu",
    "threads": 1,
    "model": {"dModel": 16, "layers": 1, "heads": 2, "dropout": 0.1},
    "batch": {"globalBatchSize": 6, "microBatchSize": 2},
    "schedule": {"warmupSteps": 4},
    "optimizer": {"learningRate": 0.01},
    "checkpoint": {"everySteps": 5, "keepLast": 2},
    "evaluation": {"everySteps": 7, "batches": 2},
    "logging": {"everySteps": 4, "tensorboard": False},
    "sample": {"count": 0},
}


def merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the nested keys of `change` merged in."""
    merged = dict(base)
    for key, value in change.items():
        merged[key] = merge(merged.get(key, {}), value) if isinstance(value, dict) else value
    return merged


@dataclass
class Job:
    """One job on a volume of its own."""

    root: Path
    training: dict[str, Any] = field(default_factory=dict)
    hook: str = ""
    """`module:function` that each rank calls first, to break something (not under torchrun)."""
    nodes: int = 1
    """Number of torchrun agents that share the ranks."""
    dataset: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        write_music(self.root / "midi")
        self.write()

    def write(self, **training: Any) -> None:
        """Write the job file again with further changes."""
        self.training = merge(self.training, training)
        document = {"dataset": merge(DATASET, self.dataset), "training": merge(TRAINING, self.training)}
        (self.root / "job.yaml").write_text(yaml.safe_dump(document))

    @property
    def directory(self) -> Path:
        return self.root / "space" / "job"

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    def start(self, ranks: int = 1, *, torchrun: bool = False, **environment: str) -> Gang:
        """Start the ranks, either by torchrun or by this process; their output goes to `log`."""
        run_dir = self.root / "run"
        run_dir.mkdir(exist_ok=True)
        for old in run_dir.iterdir():
            old.unlink()
        variables = {
            "PYTHONPATH": str(TRAINER),
            "AURL_CONFIG": str(self.root / "job.yaml"),
            "AURL_VOLUME": str(self.root),
            "AURL_JOB_NAMESPACE": "space",
            "AURL_JOB_NAME": "job",
            "AURL_RUN_DIR": str(run_dir),
            "AURL_ATTEMPT": "0",
            "AURL_LOG_FORMAT": "json",
            **environment,
        }
        log = self.root / "log"
        log.write_text("")
        if torchrun:
            return TorchrunGang(variables, log, self.nodes, ranks // self.nodes)
        return ForkedGang(variables, log, ranks, self.hook)

    def run(self, ranks: int = 1, *, torchrun: bool = False, **environment: str) -> list[int]:
        """Run the job to its end and return the exit codes of its ranks (of torchrun: its own)."""
        gang = self.start(ranks, torchrun=torchrun, **environment)
        try:
            return gang.wait()
        finally:
            gang.kill()

    def log(self) -> list[dict[str, Any]]:
        """Return the JSON lines of all ranks."""
        lines = (self.root / "log").read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}\n")]

    def text(self) -> str:
        """Return the whole output, for messages of failed tests."""
        return (self.root / "log").read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of one event."""
        return [line for line in self.log() if line["message"] == name]

    def pids(self) -> dict[int, int]:
        """Return the process id of each rank that has started."""
        found = {}
        for path in (self.root / "run").glob("rank-*.json"):
            snapshot = json.loads(path.read_text())
            found[snapshot["rank"]] = snapshot["pid"]
        return found

    def steps(self) -> list[int]:
        """Return the steps of the committed checkpoints, oldest first."""
        return sorted(int(path.parent.name[5:]) for path in self.checkpoints.glob("step-*/COMMITTED"))

    def step(self) -> int:
        """Return the last step that rank 0 reported; 0 before it has started."""
        with contextlib.suppress(FileNotFoundError):
            return int(json.loads((self.root / "run" / "rank-0.json").read_text())["step"])
        return 0

    def failure(self, rank: int = 0) -> dict[str, Any]:
        """Return the failure file of a rank."""
        found: dict[str, Any] = json.loads((self.root / "run" / f"failure-{rank}.json").read_text())
        return found

    def results(self) -> list[str]:
        """Return the states of ranks that ended without an error."""
        return [
            json.loads(path.read_text())["state"] for path in sorted((self.root / "run").glob("result-*"))
        ]

    def checkpoint(self, step: int) -> Path:
        """Return the path of a step's checkpoint."""
        return self.checkpoints / f"step-{step:08d}"


class Gang(Protocol):
    """The running ranks of a job; their output is in `log`."""

    log: Path

    def running(self) -> bool:
        """True if any process is alive."""

    def wait(self) -> list[int]:
        """Wait for the end and return the exit codes; -n for signal n."""

    def kill(self) -> None:
        """Kill all processes together, as when a node dies."""


class TorchrunGang:
    """Ranks under torchrun's agents, one per node, each in its own session."""

    def __init__(self, environment: dict[str, str], log: Path, nodes: int, ranks_per_node: int) -> None:
        layout = [f"--nnodes={nodes}", f"--nproc-per-node={ranks_per_node}"]
        meeting = [f"--master-addr={LOCALHOST}", f"--master-port={free_port()}"]
        self.log = log
        self._agents = []
        for node in range(nodes):
            command = [
                sys.executable,
                "-m",
                "torch.distributed.run",
                *layout,
                *meeting,
                f"--node-rank={node}",
            ]
            with log.open("a") as output:
                agent = subprocess.Popen(
                    [*command, "-m", "aurl_trainer.train"],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment},
                    start_new_session=True,
                )
            self._agents.append(agent)

    def running(self) -> bool:
        return any(agent.poll() is None for agent in self._agents)

    def wait(self) -> list[int]:
        return [agent.wait(DEADLINE) for agent in self._agents]

    def kill(self) -> None:
        sessions = {agent.pid for agent in self._agents}
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                with contextlib.suppress(OSError):
                    fields = (path / "stat").read_text().rpartition(")")[2].split()
                    if int(fields[3]) in sessions:  # field 6 of proc(5): the session
                        os.kill(int(path.name), signal.SIGKILL)
        for agent in self._agents:
            agent.wait()


@functools.cache
def fork_server() -> ForkServerContext:
    """Start the process that ranks are forked from."""
    context = multiprocessing.get_context("forkserver")
    # DistributedDataParallel would import TorchDynamo in every rank.
    context.set_forkserver_preload(
        ["aurl_trainer.train", "torch._dynamo", "aurl_trainer.distributed.fsdp", "torchrun.rank"]
    )
    before = os.environ.get("PYTHONPATH")
    # In Python 3.11 the server ignores the path it is sent.
    os.environ["PYTHONPATH"] = os.pathsep.join((str(TRAINER), str(TRAINER.parent / "tests")))
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


class ForkedGang:
    """The same ranks, forked from a server that has imported PyTorch, which saves seconds."""

    def __init__(self, environment: dict[str, str], log: Path, ranks: int, hook: str) -> None:
        context = fork_server()
        port = free_port()
        self.log = log
        self._ranks = []
        for rank in range(ranks):
            layout = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "LOCAL_WORLD_SIZE": str(ranks),
                "MASTER_ADDR": LOCALHOST,
                "MASTER_PORT": str(port),
            }
            process = context.Process(target=run_rank, args=({**environment, **layout}, str(log), hook))
            process.start()
            self._ranks.append(process)

    def running(self) -> bool:
        return any(process.is_alive() for process in self._ranks)

    def wait(self) -> list[int]:
        deadline = time.monotonic() + DEADLINE
        for process in self._ranks:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in self._ranks]
        assert None not in codes, "the job did not end"
        return [code for code in codes if code is not None]

    def kill(self) -> None:
        for process in self._ranks:
            process.kill()
            process.join()


def wait_until(condition: Callable[[], bool], what: str, gang: Gang) -> None:
    """Poll until `condition` holds; fails when the job ends first, or after the deadline."""

    def look() -> bool:
        running = gang.running()
        if not (found := condition()):
            assert running, f"the job ended before {what}:\n{gang.log.read_text()[-4000:]}"
        return found

    wait_for(what, look, DEADLINE, every=0.002)
