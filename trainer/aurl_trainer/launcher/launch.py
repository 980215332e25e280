"""The launcher: serve first, start the work, pass SIGTERM on, wait for the end and explain it.

The process that calls `launch` must be the launcher's own (PID 1 of a pod, or the command line): it reaps
every child.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from aurl_trainer import logs
from aurl_trainer.contract import (
    EXIT_CODES,
    FAILED,
    FINISHED,
    INTERRUPTED,
    METRICS_PATH,
    PROGRESS_PATH,
    SUCCEEDED,
    EndState,
    LaunchRole,
    PodState,
    Variable,
)
from aurl_trainer.launcher import jobpage, progress, rundir, stacks, termination
from aurl_trainer.launcher.artifacts import Artifacts, read_sample
from aurl_trainer.launcher.environment import ContractError, LaunchEnvironment
from aurl_trainer.launcher.history import History
from aurl_trainer.launcher.outcome import Outcome, decide
from aurl_trainer.launcher.output import ChildOutput
from aurl_trainer.launcher.processes import Child, SignalInbox, kill_leftovers, signal_all
from aurl_trainer.launcher.recorder import Recorder
from aurl_trainer.launcher.server import JSON_TYPE, METRICS_TYPE, LauncherServer, json_body
from aurl_trainer.launcher.stall import UNFINISHED, Stall, StallWatch
from aurl_trainer.system import cgroup

log = logging.getLogger(__name__)

TICK = 0.2
"""Seconds between two looks at the ranks."""

GRACE_SHARE = 0.85
"""Part of the grace period that the ranks get to save; the rest is for the message and the exit."""

EXIT_PATIENCE = {SUCCEEDED: 30.0, INTERRUPTED: 2.0}
"""Seconds that torchrun may wait for other nodes once all ranks of this node have ended as planned."""

PEER_PATIENCE = 2.0
"""Seconds between saving the stacks of ranks that hang and killing them: the launchers of other nodes notice
the same standstill a moment sooner or later, and their ranks must still be there."""

RANK_MODULE = "aurl_trainer.train"
PREPARE_MODULE = "aurl_trainer.launcher.prepare"

_STATE_AT_END: Mapping[EndState, PodState] = {SUCCEEDED: FINISHED, FAILED: "Failed", INTERRUPTED: "Saving"}


@dataclass
class Launch:
    """One run of the launcher.

    `rank_command` are torchrun's words for what each rank runs; `output` takes the output of all children
    (default: ours); `observe` is called with `/progress` about five times a second.
    """

    environment: LaunchEnvironment
    role: LaunchRole
    variables: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    rank_command: Sequence[str] = ("-m", RANK_MODULE)
    output: IO[bytes] | None = None
    observe: Callable[[dict[str, Any]], None] | None = None
    announce: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        self._started_at = time.time()
        self._state: PodState | None = None
        self._asked: set[int] = set()
        self._watch = StallWatch()
        self._stall: Stall | None = None
        self._recorder: Recorder | None = None

    def run(self) -> Outcome:
        """Do everything, from the first served request to the termination message; returns how it ended.

        Raises ContractError when the run directory or the HTTP port cannot be had.
        """
        environment = self.environment
        server = self._serve()
        try:
            with SignalInbox() as inbox:
                outcome = self._work(inbox)
                message = self._conclude(outcome)
                log.log(
                    logging.ERROR if outcome.state == FAILED else logging.INFO,
                    f"launcher: {outcome.message}",
                    extra={
                        key: value for key, value in message.items() if value is not None and key != "message"
                    },
                )
                if outcome.state == SUCCEEDED and self.role == "train":
                    self._linger(inbox, environment.linger_seconds)
        finally:
            server.close()
        return outcome

    def progress(self) -> dict[str, Any]:
        """Return the object that `/progress` answers now."""
        return progress.build(
            self.environment,
            self.role,
            self._read(),
            state=self._state,
            started_at=self._started_at,
            now=time.time(),
        )

    def _serve(self) -> LauncherServer:
        environment = self.environment
        try:
            rundir.clear(environment.run_dir)
        except OSError as error:
            raise ContractError(
                f"AURL_RUN_DIR {environment.run_dir} cannot be written: {error.strerror}."
            ) from None
        artifacts = Artifacts(environment.job_dir)
        routes = {
            **jobpage.routes(),
            PROGRESS_PATH: (JSON_TYPE, lambda: json_body(self.progress())),
            "/history": (JSON_TYPE, self._history),
            "/artifacts": (JSON_TYPE, lambda: json_body(artifacts.contents())),
            METRICS_PATH: (METRICS_TYPE, self._metrics),
            "/healthz": ("text/plain; charset=utf-8", lambda: b"ok\n"),
        }
        folders = {"/samples/": lambda name: read_sample(environment.job_dir, name)}
        try:
            server = LauncherServer(environment.http_port, routes, folders)
        except OSError as error:
            raise ContractError(
                f"AURL_HTTP_PORT {environment.http_port} cannot be bound: {error.strerror}."
            ) from None
        server.start()
        if self.role == "train" and environment.node_rank == 0:
            self._recorder = Recorder(environment.run_dir, environment.job_dir, environment.attempt)
        log.info("launcher: serving", extra={"port": server.port, "role": self.role})
        if self.announce is not None:
            self.announce(server.port)
        return server

    def _history(self) -> bytes:
        # Only the launcher beside rank 0 keeps one.
        return self._recorder.body() if self._recorder is not None else json_body(History().document())

    def _metrics(self) -> bytes:
        # Loaded at the first scrape: the server should not wait for it.
        from aurl_trainer.launcher import exposition

        def read() -> exposition.Scrape:
            seen = self._read()
            return exposition.Scrape(seen, self._state or progress.current_state(self.role, seen))

        return exposition.render(self.environment, self.role, read)

    def _read(self) -> rundir.RunDirectory:
        return rundir.read_run_directory(self.environment.run_dir, self._ranks())

    def _ranks(self) -> range:
        return self.environment.local_ranks if self.role == "train" else range(0)

    def _work(self, inbox: SignalInbox) -> Outcome:
        """Run the child to its end and judge it."""
        kills_before = cgroup.oom_kills()
        command = self._command()
        log.info("launcher: starting", extra={"command": shlex.join(command)})
        collected = self._collected_output()
        child = Child(
            command, self._child_environment(), self.output if collected is None else collected.pipe
        )
        try:
            if collected is not None:
                collected.pipe.close()
            self._follow(child, inbox)
        finally:
            child.reap()
            exit_code = child.exit_code
            child.signal_group(signal.SIGKILL)
            kill_leftovers(self._rank_pids())
            if collected is not None:
                collected.drain()
        return decide(
            self._read(),
            expected=self._ranks(),
            child_exit_code=exit_code,
            terminated_at=inbox.terminated_at,
            oom_kills=cgroup.oom_kills() - kills_before,
            stall=self._stall,
        )

    def _collected_output(self) -> ChildOutput | None:
        """Where we write JSON lines, so do our children; None where their output goes its own way."""
        handler = logs.json_stream()
        if self.output is not None or handler is None:
            return None

        def write(line: str) -> None:
            with handler.lock or contextlib.nullcontext():
                handler.stream.write(f"{line}\n")
                handler.flush()

        return ChildOutput(write, self.variables)

    def _follow(self, child: Child, inbox: SignalInbox) -> None:
        """Return when the child is gone or has to be killed."""
        deadline: float | None = None
        ended_at: float | None = None
        while not child.reap():
            now = time.monotonic()
            if inbox.terminated_at is not None:
                if deadline is None:
                    deadline = now + self.environment.grace_seconds * GRACE_SHARE
                    log.info("launcher: SIGTERM; asking the work to save and stop")
                    self._explain_standstill(now)
                if not self._pass_on_sigterm(child):
                    return
            elif self._hangs(now):
                inbox.wait(PEER_PATIENCE)
                return
            if deadline is not None and (now >= deadline or inbox.interrupts > 1):
                log.warning("launcher: the grace period is over; killing what still runs")
                return
            results = rundir.read_results(self.environment.run_dir, self._ranks())
            if results and len(results) == len(self._ranks()):
                ended_at = ended_at if ended_at is not None else now
                patience = EXIT_PATIENCE[INTERRUPTED if INTERRUPTED in results.values() else SUCCEEDED]
                if now - ended_at > patience:
                    log.info(
                        "launcher: the ranks have ended; not waiting for torchrun's exit barrier any longer"
                    )
                    return
            if self._recorder is not None:
                self._recorder.look()
            if self.observe is not None:
                self.observe(self.progress())
            inbox.wait(TICK)

    def _hangs(self, now: float) -> bool:
        """Whether the ranks stand still for longer than they may; their stacks are saved then."""
        limit = self.environment.hang_seconds
        if limit is None or self.role != "train":
            return False
        ranks = rundir.read_ranks(self.environment.run_dir, self._ranks())
        stall = self._watch.look(ranks, self._ranks(), now)
        if stall is None or stall.seconds < limit:
            return False
        self._stall = stall
        self._save_stacks(stall)
        return True

    def _explain_standstill(self, now: float) -> None:
        """Save stacks at SIGTERM too where the ranks seem to hang: whoever sent it may have noticed first."""
        limit = self.environment.hang_seconds
        if limit is not None and self.role == "train":
            ranks = rundir.read_ranks(self.environment.run_dir, self._ranks())
            stall = self._watch.look(ranks, self._ranks(), now, UNFINISHED)
            if stall is not None and stall.seconds >= limit / 2:
                self._save_stacks(stall)

    def _save_stacks(self, stall: Stall) -> None:
        environment = self.environment
        log.error(f"launcher: {stall.sentence}", extra={"step": stall.step, "seconds": round(stall.seconds)})
        ranks = rundir.read_ranks(environment.run_dir, self._ranks())
        target = stacks.folder(environment.job_dir, environment.attempt)
        stacks.save_stacks(environment.run_dir, ranks, target, stall.sentence)

    def _pass_on_sigterm(self, child: Child) -> bool:
        """Ask whoever has not been asked yet to save and stop; False when there is nothing to save at all.

        The ranks get the signal directly: the agent cannot be interrupted while it waits in the rendezvous,
        and would kill the ranks after a time of its own choosing. Ranks that appear later are asked then.
        """
        if self.role == "prepare":
            working, new = {child.pid}, {child.pid} - self._asked
            if new:
                child.signal_group(signal.SIGTERM)
        else:
            self._state = "Saving"
            working = set(self._rank_pids())
            new = working - self._asked
            signal_all(new, signal.SIGTERM)
        self._asked |= new
        return bool(working)

    def _rank_pids(self) -> list[int]:
        return [
            snapshot.pid for snapshot in rundir.read_ranks(self.environment.run_dir, self._ranks()).values()
        ]

    def _conclude(self, outcome: Outcome) -> dict[str, Any]:
        """Show the end on /progress and write the termination message."""
        self._state = _STATE_AT_END[outcome.state]
        preparation = self._read().preparation
        message = termination.build(outcome, self.progress(), preparation.dataset if preparation else None)
        if not termination.ignore_unwritable(self.environment.termination_log, message):
            log.warning(
                "launcher: the termination message could not be written",
                extra={"path": str(self.environment.termination_log)},
            )
        if self._recorder is not None:
            self._recorder.finish(outcome, self.progress())
        if self.observe is not None:
            self.observe(self.progress())
        return message

    def _linger(self, inbox: SignalInbox, seconds: float) -> None:
        """Keep serving so that the last values are scraped; SIGTERM ends it at once."""
        deadline = time.monotonic() + seconds
        while inbox.terminated_at is None and time.monotonic() < deadline:
            inbox.wait(deadline - time.monotonic())

    def _command(self) -> list[str]:
        if self.role == "prepare":
            return [sys.executable, "-m", PREPARE_MODULE]
        agent = [
            sys.executable,
            "-m",
            "aurl_trainer.launcher.agent",
            str(self.environment.run_dir / rundir.AGENT_FILE),
        ]
        return [*agent, *torchrun_arguments(self.environment), *self.rank_command]

    def _child_environment(self) -> dict[str, str]:
        environment = self.environment
        child = {
            "OMP_NUM_THREADS": str(cgroup.threads_per_rank(environment.procs_per_node)),
            # Ranks are numbered by node rank and local rank alone, never by who came first.
            "TORCH_ELASTIC_WORKER_IDENTICAL": "1",
            "PYTHONUNBUFFERED": "1",
            # After one rank has failed the others have nothing to save; torchrun would wait 30 s for them.
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "5",
        }
        if environment.num_nodes == 1 and sys.platform == "linux":
            # Gloo looks up the host's own name otherwise, which need not resolve.
            child["GLOO_SOCKET_IFNAME"] = "lo"
        return {
            **child,
            **self.variables,
            Variable.RUN_DIR: str(environment.run_dir),
            Variable.JOB_DIR: str(environment.job_dir),
        }


def torchrun_arguments(environment: LaunchEnvironment) -> list[str]:
    """Return torchrun's arguments for this node: static ranks, a rendezvous without DNS, no restarts."""
    arguments = [
        f"--nnodes={environment.num_nodes}",
        f"--nproc-per-node={environment.procs_per_node}",
        f"--node-rank={environment.node_rank}",
        "--rdzv-backend=static",
        f"--rdzv-endpoint={rendezvous_endpoint(environment)}",
        f"--rdzv-conf=is_host={int(environment.node_rank == 0)}",
        f"--rdzv-id={environment.rendezvous_id}",
        "--max-restarts=0",
    ]
    if environment.local_address is not None:
        # Agents would advertise pod names otherwise, which nothing resolves.
        arguments.append(f"--local-addr={environment.local_address}")
    return arguments


def rendezvous_endpoint(environment: LaunchEnvironment) -> str:
    """Return where this node finds the rendezvous store.

    Node 0 hosts it and goes there by loopback: the way through its own Service needs hairpin NAT, which not
    every network plugin has.
    """
    if environment.rendezvous is None:
        return f"127.0.0.1:{free_port()}"
    if environment.node_rank != 0:
        return environment.rendezvous
    host, _, port = environment.rendezvous.rpartition(":")
    return f"[::1]:{port}" if host.startswith("[") else f"127.0.0.1:{port}"


def free_port() -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def report_contract_error(error: ContractError, variables: Mapping[str, str]) -> int:
    """Tell a broken contract as far as that is possible, and return the exit code."""
    outcome = Outcome(
        FAILED,
        str(error),
        failure_class="UserError",
        exit_code=EXIT_CODES["UserError"],
        exception="ContractError",
    )
    log.error(f"launcher: {error}")
    named = variables.get(Variable.TERMINATION_LOG)
    path = Path(named) if named else Path("/dev/termination-log")
    if named or path.exists():
        termination.ignore_unwritable(path, termination.build(outcome, {}, None))
    return outcome.process_exit_code
