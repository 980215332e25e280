"""The launcher, PID 1 of a pod: serve, start the work, pass SIGTERM on, wait for the end and explain it.

Read `Launch.run` first. The calling process must be the launcher itself: it reaps every child.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from aurl_trainer import logs
from aurl_trainer.contract import (
    EXIT_CODES,
    FAILED,
    FINISHED,
    INTERRUPTED,
    METRICS_PATH,
    SUCCEEDED,
    EndState,
    LaunchRole,
    PodState,
    Variable,
)
from aurl_trainer.launcher import jobpage, progress, rundir, termination
from aurl_trainer.launcher.environment import ContractError, LaunchEnvironment, termination_log
from aurl_trainer.launcher.history import History
from aurl_trainer.launcher.outcome import Outcome, decide
from aurl_trainer.launcher.output import ChildOutput
from aurl_trainer.launcher.processes import Child, SignalInbox, kill_leftovers, signal_all
from aurl_trainer.launcher.recorder import Recorder
from aurl_trainer.launcher.server import METRICS_TYPE, LauncherServer, json_body
from aurl_trainer.launcher.stall import HangDetector, Stall
from aurl_trainer.launcher.torchrun import child_command, child_environment
from aurl_trainer.system import cgroup

log = logging.getLogger(__name__)

TICK = 0.2
"""Seconds between two looks at the ranks."""

GRACE_SHARE = 0.85
"""Share of the grace period that the ranks get to save; the rest is for the message and the exit."""

EXIT_PATIENCE = {SUCCEEDED: 30.0, INTERRUPTED: 2.0}
"""Seconds that torchrun may wait for other nodes after all ranks of this node have ended as planned."""

PEER_PATIENCE = 2.0
"""Seconds between saving the stacks of ranks that hang and killing them: the launchers of other nodes notice
the same hang a moment earlier or later, and need their ranks until then."""

RANK_MODULE = "aurl_trainer.train"

_STATE_AT_END: Mapping[EndState, PodState] = {SUCCEEDED: FINISHED, FAILED: "Failed", INTERRUPTED: "Saving"}


@dataclass
class Launch:
    """One run of the launcher.

    `rank_command` is what torchrun starts for each rank; `output` receives the output of all children
    (default: the launcher's own); `observe` is called with `/progress` about five times a second, and
    `announce` once with the port of the server.
    """

    environment: LaunchEnvironment
    role: LaunchRole
    variables: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    rank_command: Sequence[str] = ("-m", RANK_MODULE)
    output: IO[bytes] | None = None
    observe: Callable[[dict[str, Any]], None] | None = None
    announce: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        self._ranks = self.environment.local_ranks if self.role == "train" else range(0)
        self._started_at = time.time()
        self._state: PodState | None = None
        self._signalled: set[int] = set()
        self._hang_detector = HangDetector(self.environment) if self.role == "train" else None
        self._stall: Stall | None = None
        self._recorder: Recorder | None = None

    def run(self) -> Outcome:
        """Serve, do the work and write the termination message; return how it ended.

        Raises ContractError if the run directory cannot be written or the HTTP port cannot be bound.
        """
        server = self._serve()
        try:
            with SignalInbox() as inbox:
                outcome = self._work(inbox)
                self._conclude(outcome)
                if outcome.state == SUCCEEDED and self.role == "train":
                    self._linger(inbox)
        finally:
            server.close()
        return outcome

    def progress(self) -> dict[str, Any]:
        """Return the current answer of `/progress`."""
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
                f"{Variable.RUN_DIR} {environment.run_dir} cannot be written: {error.strerror}."
            ) from None
        routes = {
            **jobpage.routes(environment.job_dir, self.progress, self._history),
            METRICS_PATH: (METRICS_TYPE, self._metrics),
            "/healthz": ("text/plain; charset=utf-8", lambda: b"ok\n"),
        }
        try:
            server = LauncherServer(environment.http_port, routes, jobpage.folders(environment.job_dir))
        except OSError as error:
            raise ContractError(
                f"{Variable.HTTP_PORT} {environment.http_port} cannot be bound: {error.strerror}."
            ) from None
        server.start()
        if self.role == "train" and environment.node_rank == 0:
            self._recorder = Recorder(environment.run_dir, environment.job_dir, environment.attempt)
        log.info("launcher: serving", extra={"port": server.port, "role": self.role})
        if self.announce is not None:
            self.announce(server.port)
        return server

    def _history(self) -> bytes:
        # Only the launcher next to rank 0 keeps one.
        return self._recorder.body() if self._recorder is not None else json_body(History().document())

    def _metrics(self) -> bytes:
        # Imported at the first scrape, so that the server starts without it.
        from aurl_trainer.launcher import exposition

        seen = self._read()
        state = self._state or progress.current_state(self.role, seen)
        return exposition.render(self.environment, self.role, seen, state)

    def _read(self) -> rundir.RunDirectory:
        return rundir.read_run_directory(self.environment.run_dir, self._ranks)

    def _work(self, inbox: SignalInbox) -> Outcome:
        """Run the child to its end and decide how it ended."""
        kills_before = cgroup.oom_kills()
        command = child_command(self.environment, self.role, self.rank_command)
        log.info("launcher: starting", extra={"command": shlex.join(command)})
        collected = self._collected_output()
        output = self.output if collected is None else collected.pipe
        child = Child(command, child_environment(self.environment, self.variables), output)
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
            expected=self._ranks,
            child_exit_code=exit_code,
            terminated_at=inbox.terminated_at,
            oom_kills=cgroup.oom_kills() - kills_before,
            stall=self._stall,
        )

    def _collected_output(self) -> ChildOutput | None:
        """Return a pipe that turns the children's output into JSON lines if the launcher logs JSON."""
        handler = logs.json_stream()
        if self.output is not None or handler is None:
            return None

        def write(line: str) -> None:
            with handler.lock or contextlib.nullcontext():
                handler.stream.write(f"{line}\n")
                handler.flush()

        return ChildOutput(write, self.variables)

    def _follow(self, child: Child, inbox: SignalInbox) -> None:
        """Return when the child has exited or must be killed."""
        deadline: float | None = None
        ended_at: float | None = None
        while not child.reap():
            now = time.monotonic()
            if inbox.terminated_at is not None:
                if deadline is None:
                    deadline = now + self.environment.grace_seconds * GRACE_SHARE
                    log.info("launcher: SIGTERM received, asking the work to save and stop")
                    if self._hang_detector is not None:
                        self._hang_detector.explain_sigterm(now)
                if not self._pass_on_sigterm(child):
                    return
            elif self._hang_detector is not None:
                self._stall = self._hang_detector.check(now)
                if self._stall is not None:
                    inbox.wait(PEER_PATIENCE)
                    return
            if deadline is not None and (now >= deadline or inbox.interrupts > 1):
                log.warning("launcher: grace period expired, killing the remaining processes")
                return
            results = rundir.read_results(self.environment.run_dir, self._ranks)
            if results and len(results) == len(self._ranks):
                ended_at = ended_at if ended_at is not None else now
                patience = EXIT_PATIENCE[INTERRUPTED if INTERRUPTED in results.values() else SUCCEEDED]
                if now - ended_at > patience:
                    log.info("launcher: all ranks ended, no longer waiting for torchrun's exit barrier")
                    return
            if self._recorder is not None:
                self._recorder.look()
            if self.observe is not None:
                self.observe(self.progress())
            inbox.wait(TICK)

    def _pass_on_sigterm(self, child: Child) -> bool:
        """Send SIGTERM to each process of the work once; return False if there is nothing to save.

        The ranks get the signal directly: the agent cannot be interrupted while it waits in the rendezvous,
        and would kill the ranks after a timeout of its own. Ranks that appear later get it then.
        """
        if self.role == "prepare":
            working, new = {child.pid}, {child.pid} - self._signalled
            if new:
                child.signal_group(signal.SIGTERM)
        else:
            self._state = "Saving"
            working = set(self._rank_pids())
            new = working - self._signalled
            signal_all(new, signal.SIGTERM)
        self._signalled |= new
        return bool(working)

    def _rank_pids(self) -> list[int]:
        ranks = rundir.read_ranks(self.environment.run_dir, self._ranks)
        return [snapshot.pid for snapshot in ranks.values()]

    def _conclude(self, outcome: Outcome) -> None:
        """Report the end: /progress, the termination message, the history and the last log line."""
        self._state = _STATE_AT_END[outcome.state]
        preparation = self._read().preparation
        message = termination.build(outcome, self.progress(), preparation.dataset if preparation else None)
        if not termination.write_if_possible(self.environment.termination_log, message):
            log.warning(
                "launcher: the termination message could not be written",
                extra={"path": str(self.environment.termination_log)},
            )
        if self._recorder is not None:
            self._recorder.finish(outcome, self.progress())
        if self.observe is not None:
            self.observe(self.progress())
        log.log(
            logging.ERROR if outcome.state == FAILED else logging.INFO,
            f"launcher: {outcome.message}",
            extra={key: value for key, value in message.items() if value is not None and key != "message"},
        )

    def _linger(self, inbox: SignalInbox) -> None:
        """Keep serving so that the last values are scraped; SIGTERM ends it immediately."""
        deadline = time.monotonic() + self.environment.linger_seconds
        while inbox.terminated_at is None and time.monotonic() < deadline:
            inbox.wait(deadline - time.monotonic())


def report_contract_error(error: ContractError, variables: Mapping[str, str]) -> int:
    """Log a broken contract, write the termination message if possible, and return the exit code."""
    outcome = Outcome(
        FAILED,
        str(error),
        failure_class="UserError",
        exit_code=EXIT_CODES["UserError"],
        exception="ContractError",
    )
    log.error(f"launcher: {error}")
    path = termination_log(variables)
    if path is not None:
        termination.write_if_possible(path, termination.build(outcome, {}, None))
    return outcome.process_exit_code
