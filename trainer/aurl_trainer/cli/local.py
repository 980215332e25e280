"""`aurl-trainer train` and `prepare`: a job on this machine, run by the same launcher as in pods."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from aurl_trainer import logs
from aurl_trainer.cli.follow import Follower
from aurl_trainer.cli.jobfile import LocalJob, as_given, read_job
from aurl_trainer.contract import CONFIG_FILE, FAILED, INTERRUPTED, SUCCEEDED, LaunchRole, Variable
from aurl_trainer.errors import UserError
from aurl_trainer.launcher.environment import ContractError, read_environment
from aurl_trainer.launcher.launch import Launch
from aurl_trainer.launcher.outcome import Outcome
from aurl_trainer.launcher.recorder import HISTORY_FILE

GRACE_SECONDS = 120
"""Seconds that Ctrl-C waits for the last checkpoint; a second Ctrl-C does not wait."""

LOG_TAIL = 15
"""Lines of the log to print after a failure."""


@dataclass
class LocalRun:
    """One job on this machine, with its output directory and how it reports."""

    job: LocalJob
    output: Path
    run_dir: Path
    http_port: int
    verbose: bool

    def launch(self, role: LaunchRole) -> Outcome:
        """Run one role to its end, showing its progress. Raises UserError if it cannot start."""
        follower = Follower(sys.stdout)
        variables = self._variables()
        log_path = self.output / "logs" / f"{role}.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            output = None if self.verbose else stack.enter_context(log_path.open("ab"))
            stream = (
                sys.stderr if output is None else stack.enter_context(log_path.open("a", encoding="utf-8"))
            )
            logs.setup(variables, stream=stream)
            launch = Launch(
                read_environment(variables),
                role,
                variables,
                output=output,
                observe=follower,
                announce=lambda port: self._announce(follower, role, port),
            )
            try:
                outcome = launch.run()
            except ContractError as error:
                raise UserError(str(error).replace(Variable.HTTP_PORT, "--http-port")) from None
        follower.finish(launch.progress())
        if outcome.state == FAILED:
            self._explain(outcome, log_path)
        return outcome

    def _announce(self, follower: Follower, role: LaunchRole, port: int) -> None:
        """Print the address of the job page; the next role reuses the port for pages that are open."""
        if self.http_port != port or role == "prepare":
            follower.line(f"job page: http://127.0.0.1:{port}/ (also /metrics and /progress)")
        self.http_port = port

    def _variables(self) -> dict[str, str]:
        return {
            **os.environ,
            Variable.JOB_NAME: self.job.name,
            Variable.JOB_NAMESPACE: "local",
            Variable.JOB_UID: f"{self.job.name}-{os.getpid()}",
            Variable.ATTEMPT: "0",
            Variable.NODE_RANK: "0",
            Variable.NUM_NODES: "1",
            Variable.NPROC_PER_NODE: str(self.job.processes),
            Variable.RDZV_ENDPOINT: "",
            Variable.POD_IP: "",
            Variable.CONFIG: str(self.run_dir / CONFIG_FILE),
            # Relative dataset paths are relative to the working directory.
            Variable.VOLUME: str(Path.cwd()),
            Variable.JOB_DIR: str(self.output),
            Variable.RUN_DIR: str(self.run_dir),
            Variable.HTTP_PORT: str(self.http_port),
            Variable.GRACE_SECONDS: str(GRACE_SECONDS),
            Variable.LINGER_SECONDS: "0",
            Variable.TERMINATION_LOG: str(self.run_dir / "termination-message.json"),
            Variable.LOG_FORMAT: os.environ.get(Variable.LOG_FORMAT, "text"),
        }

    def _explain(self, outcome: Outcome, log_path: Path) -> None:
        print(f"aurl-trainer: {outcome.failure_class}: {outcome.message}", file=sys.stderr)
        if self.verbose or outcome.failure_class == "UserError":
            return
        with contextlib.suppress(OSError):
            tail = log_path.read_text(errors="replace").splitlines()[-LOG_TAIL:]
            print(*(f"    {line}" for line in tail), sep="\n", file=sys.stderr)
        print(f"aurl-trainer: the full log is in {log_path}", file=sys.stderr)


def train(options: argparse.Namespace) -> int:
    """Prepare and train, resuming from the newest checkpoint in the output directory.

    Returns the launcher's exit code.
    """
    with _local_run(options, options.http_port) as run:
        ranks = f"{run.job.processes} rank{'s' * (run.job.processes > 1)}"
        print(f"{run.job.name}: {ranks}, output in {shown(run.output)}")
        outcome = run.launch("prepare")
        if outcome.state == SUCCEEDED:
            outcome = run.launch("train")
            if outcome.state == INTERRUPTED:
                print("interrupted; run the same command again to resume from the last checkpoint")
            elif outcome.state == SUCCEEDED:
                _show_results(run.output)
        return outcome.process_exit_code


def prepare(options: argparse.Namespace) -> int:
    """Write the dataset only. Returns the launcher's exit code."""
    with _local_run(options, http_port=0) as run:
        outcome = run.launch("prepare")
        if outcome.state == SUCCEEDED:
            print(f"dataset: {shown(run.output / 'dataset')}")
        return outcome.process_exit_code


def shown(path: Path) -> str:
    """Return `path` relative to the working directory, if it is below it."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


@contextlib.contextmanager
def _local_run(options: argparse.Namespace, http_port: int) -> Iterator[LocalRun]:
    """Create the output directory, locked against a second run, and a temporary run directory."""
    job = read_job(options.job, options.changes)
    output = (options.output or Path("build/train") / job.name).absolute()
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = (output / ".lock").open("w")
    except OSError as error:
        raise UserError(f"The output directory {output} is not writable: {error.strerror}.") from None
    memory = Path("/dev/shm")
    run_dir = Path(tempfile.mkdtemp(prefix="aurl-", dir=memory if os.access(memory, os.W_OK) else None))
    try:
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    f"Another run is using {output}; wait for it or choose another --output."
                ) from None
            (run_dir / CONFIG_FILE).write_text(
                yaml.safe_dump(as_given(job.config), sort_keys=False, allow_unicode=True)
            )
            yield LocalRun(job, output, run_dir, http_port, options.verbose)
    finally:
        shutil.rmtree(run_dir, ignore_errors=True)


def _show_results(output: Path) -> None:
    """Print the paths of the results and the commands that show them."""
    checkpoints = sorted((output / "checkpoints").glob("step-*"))
    if checkpoints:
        print(f"checkpoint  {shown(checkpoints[-1])}")
    sampled = sorted((output / "samples").glob("step-*"))
    for path in sorted(sampled[-1].iterdir()) if sampled else []:
        label = {".mid": "music", ".png": "piano roll"}.get(path.suffix)
        if label:
            print(f"{label:11} {shown(path)}")
    if (output / HISTORY_FILE).is_file():
        print(f"page        aurl-trainer page --job-dir {shown(output)}")
    if (output / "tensorboard").is_dir():
        print(f"curves      tensorboard --logdir {shown(output / 'tensorboard')}")
