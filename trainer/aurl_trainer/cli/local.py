"""`aurl-trainer train` and `prepare`: a whole job on this machine, by the launcher that runs in the pods."""

from __future__ import annotations

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
from aurl_trainer.cli.jobfile import LocalJob, as_given
from aurl_trainer.errors import UserError
from aurl_trainer.launcher.environment import ContractError, read_environment
from aurl_trainer.launcher.launch import Launch
from aurl_trainer.launcher.outcome import FAILED, INTERRUPTED, SUCCEEDED, Outcome
from aurl_trainer.launcher.progress import Role
from aurl_trainer.launcher.recorder import HISTORY_FILE

GRACE_SECONDS = 120
"""How long a Ctrl-C waits for the checkpoint; a second one does not wait."""

LOG_TAIL = 15


@dataclass
class LocalRun:
    """One job on this machine: where it is stored and how it talks."""

    job: LocalJob
    output: Path
    run_dir: Path
    http_port: int
    verbose: bool

    def launch(self, role: Role) -> Outcome:
        """Run one role to its end and follow it. Raises UserError when it cannot start."""
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
                raise UserError(str(error).replace("AURL_HTTP_PORT", "--http-port")) from None
        follower.finish(launch.progress())
        if outcome.state == FAILED:
            self._explain(outcome, log_path)
        return outcome

    def _announce(self, follower: Follower, role: Role, port: int) -> None:
        """Tell where the job's page is; the next role takes the same port, so that the page goes on."""
        if self.http_port != port or role == "prepare":
            follower.line(f"watch it at http://127.0.0.1:{port}/ (data: /metrics, /progress)")
        self.http_port = port

    def _variables(self) -> dict[str, str]:
        return {
            **os.environ,
            "AURL_JOB_NAME": self.job.name,
            "AURL_JOB_NAMESPACE": "local",
            "AURL_JOB_UID": f"{self.job.name}-{os.getpid()}",
            "AURL_ATTEMPT": "0",
            "AURL_NODE_RANK": "0",
            "AURL_NUM_NODES": "1",
            "AURL_NPROC_PER_NODE": str(self.job.processes),
            "AURL_RDZV_ENDPOINT": "",
            "AURL_POD_IP": "",
            "AURL_CONFIG": str(self.run_dir / "job.yaml"),
            # Relative paths of a dataset count from where the command runs.
            "AURL_VOLUME": str(Path.cwd()),
            "AURL_JOB_DIR": str(self.output),
            "AURL_RUN_DIR": str(self.run_dir),
            "AURL_HTTP_PORT": str(self.http_port),
            "AURL_GRACE_SECONDS": str(GRACE_SECONDS),
            "AURL_LINGER_SECONDS": "0",
            "AURL_TERMINATION_LOG": str(self.run_dir / "termination-message.json"),
            "AURL_LOG_FORMAT": os.environ.get("AURL_LOG_FORMAT", "text"),
        }

    def _explain(self, outcome: Outcome, log_path: Path) -> None:
        print(f"aurl-trainer: {outcome.failure_class}: {outcome.message}", file=sys.stderr)
        if self.verbose or outcome.failure_class == "UserError":
            return
        with contextlib.suppress(OSError):
            tail = log_path.read_text(errors="replace").splitlines()[-LOG_TAIL:]
            print(*(f"    {line}" for line in tail), sep="\n", file=sys.stderr)
        print(f"aurl-trainer: the whole log is {log_path}", file=sys.stderr)


def train(job: LocalJob, output: Path | None, *, http_port: int, verbose: bool) -> int:
    """Prepare and train; resumes from the newest checkpoint in `output`. Returns the launcher's exit code."""
    with _local_run(job, output, http_port, verbose) as run:
        print(f"{job.name}: {job.processes} rank{'s' * (job.processes > 1)}, stored in {shown(run.output)}")
        outcome = run.launch("prepare")
        if outcome.state == SUCCEEDED:
            outcome = run.launch("train")
            if outcome.state == INTERRUPTED:
                print("interrupted; the same command continues from the last checkpoint")
            elif outcome.state == SUCCEEDED:
                _show_results(run.output)
        return outcome.process_exit_code


def prepare(job: LocalJob, output: Path | None, *, verbose: bool) -> int:
    """Write the dataset only. Returns the launcher's exit code."""
    with _local_run(job, output, 0, verbose) as run:
        outcome = run.launch("prepare")
        if outcome.state == SUCCEEDED:
            print(f"dataset: {shown(run.output / 'dataset')}")
        return outcome.process_exit_code


def shown(path: Path) -> str:
    """Return `path` as short as it can be typed from here."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


@contextlib.contextmanager
def _local_run(job: LocalJob, output: Path | None, http_port: int, verbose: bool) -> Iterator[LocalRun]:
    """Make the job's directory and a run directory; one run at a time may use the former."""
    output = (output or Path("build/train") / job.name).absolute()
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = (output / ".lock").open("w")
    except OSError as error:
        raise UserError(f"The output directory {output} cannot be written: {error.strerror}.") from None
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
            (run_dir / "job.yaml").write_text(
                yaml.safe_dump(as_given(job.config), sort_keys=False, allow_unicode=True)
            )
            yield LocalRun(job, output, run_dir, http_port, verbose)
    finally:
        shutil.rmtree(run_dir, ignore_errors=True)


def _show_results(output: Path) -> None:
    """Print where the results lie."""
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
