"""The rank's side of monitoring: the training loop reports here, and the launcher serves the reports.

The only call per step is `heartbeat`, which costs about a microsecond. Files are replaced at most every
`MIN_INTERVAL` seconds, and immediately for states, checkpoints and the end. No torch and no thread: a rank
that hangs stops reporting, and the launcher shows its silence.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from aurl_trainer.contract import FINISHED, PodState, Variable
from aurl_trainer.metrics import SkipReason, StepMetrics, ValidationMetrics
from aurl_trainer.monitor.goodput import GoodputFile
from aurl_trainer.monitor.snapshot import (
    CHECKPOINT_RESULTS,
    PHASES,
    CheckpointRecord,
    JobEvent,
    JobSnapshot,
    RankSnapshot,
    rank_file,
    write_json,
)
from aurl_trainer.stability.anomaly import ACTIONS, Action, Anomaly
from aurl_trainer.system.host_memory import HostMemory

MIN_INTERVAL = 0.5
"""Minimum seconds between two snapshots without urgent news."""

ACCOUNTS_INTERVAL = 10.0
"""Minimum seconds between two writes of the accounts, which are on the volume."""

COMPUTE_TIME_WEIGHT = 0.25
"""Weight of the newest log interval in the mean compute time of each rank: being slow once does not count."""

IGNORED_INTERVALS = 3
"""Log intervals whose compute times are ignored: first passes allocate, on some ranks for longer."""

MAX_EVENTS = 50
MAX_MESSAGE = 300


class RankReporter:
    """Keeps this rank's snapshot file current; does nothing without a run directory.

    Exactly one phase runs at every moment (`init` from the start of the process, `other` if none was named),
    so the phases add up to the wall-clock time.
    """

    def __init__(
        self,
        run_dir: Path | None,
        *,
        rank: int = 0,
        local_rank: int = 0,
        world_size: int = 1,
        volume: Path | None = None,
    ) -> None:
        self._file = rank_file(run_dir, rank) if run_dir is not None else None
        self._volume = volume
        started = time.time() - _process_age()
        self._clock = time.monotonic() - (time.time() - started)
        self._phases: list[str] = ["init"]
        self._next_write = 0.0
        self.host = HostMemory()
        self._intervals = 0
        self._goodput: GoodputFile | None = None
        self._next_accounts = 0.0
        self.snapshot = RankSnapshot(
            rank=rank, local_rank=local_rank, world_size=world_size, pid=os.getpid(), started_at=started
        )
        self.job = JobSnapshot()
        if rank == 0:
            self.snapshot.job = self.job
        self.publish()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> RankReporter:
        """Return the reporter of this process, from AURL_RUN_DIR, AURL_VOLUME and torchrun's variables."""
        run_dir, volume = environment.get(Variable.RUN_DIR), environment.get(Variable.VOLUME)
        return cls(
            Path(run_dir) if run_dir else None,
            rank=int(environment.get("RANK", "0")),
            local_rank=int(environment.get("LOCAL_RANK", "0")),
            world_size=int(environment.get("WORLD_SIZE", "1")),
            volume=Path(volume) if volume else None,
        )

    def keep_accounts(self, job_dir: Path) -> None:
        """Continue the accounts of goodput and badput in the job's directory; for rank 0."""
        self._goodput = GoodputFile(job_dir, self.snapshot.started_at)

    def rewound(self, step: int) -> None:
        """Report that training continues from `step`, so that later progress is lost."""
        if self._goodput is not None:
            self._settle()
            self._goodput.settle(self.snapshot.phase_seconds)
            self._goodput.accounts.rewind(step)

    def begin(
        self,
        *,
        mode: str,
        precision: str,
        total_steps: int,
        start_step: int,
        sequence_length: int,
        batch_size: int,
        tokens_before: int = 0,
        initial_loss: float | None = None,
        validation_loss: float | None = None,
        ema_validation_loss: float | None = None,
    ) -> None:
        """Report the configuration of this attempt, before its first step.

        `sequence_length` is in tokens, `batch_size` the global number of samples per optimizer step.
        `tokens_before` and the losses come from the checkpoint that training resumes from.
        """
        job = self.job
        job.mode, job.precision = mode, precision
        job.total_steps, job.start_step = total_steps, start_step
        job.sequence_length, job.batch_size = sequence_length, batch_size
        job.tokens_before, job.initial_loss = tokens_before, initial_loss
        job.validation = ValidationMetrics(validation_loss, ema_validation_loss)
        self.snapshot.step = start_step
        self.rewound(start_step)
        self.publish()

    def state(self, name: PodState) -> None:
        """Enter a state; published immediately."""
        self.snapshot.state = name
        self.publish()

    def heartbeat(self, step: int) -> None:
        """Report that optimizer step `step` is done; called after every step."""
        now = time.time()
        self.snapshot.step = step
        self.snapshot.heartbeat_at = now
        if self.job.first_step_at is None:
            self.job.first_step_at = now
            self.publish()
        elif now >= self._next_write:
            self.publish()

    def log_step(self, metrics: StepMetrics) -> None:
        """Report a log interval."""
        job = self.job
        job.logged_step, job.metrics = metrics.step, metrics
        job.initial_loss = metrics.initial_loss
        job.tokens += metrics.tokens
        job.samples += metrics.samples
        self._publish_soon()

    @property
    def waited(self) -> float:
        """Seconds that this rank has waited for data so far."""
        return self.snapshot.phase_seconds["data_wait"]

    def compute_times(self, seconds: list[float]) -> None:
        """Report the compute time of each rank per step of the last interval; ignored for a single rank."""
        self._intervals += 1
        if len(seconds) < 2 or self._intervals <= IGNORED_INTERVALS:
            return
        known = self.job.compute_seconds or seconds
        self.job.compute_seconds = [
            before + COMPUTE_TIME_WEIGHT * (now - before) for before, now in zip(known, seconds, strict=True)
        ]

    def validation(self, step: int, metrics: ValidationMetrics) -> None:
        """Report an evaluation on the held-out split after `step`."""
        self.job.validation_step = step
        self.job.validation = metrics
        self.snapshot.step = max(self.snapshot.step, step)
        self.publish()

    def evaluation(self, values: Mapping[str, float]) -> None:
        """Report evaluation metrics by name; metrics of other names keep their last values."""
        self.job.evaluation |= values
        self.publish()

    def saving(self, step: int) -> None:
        """Report that a checkpoint of `step` is being saved: later progress may be lost."""
        if self._goodput is not None:
            self._settle()
            self._goodput.settle(self.snapshot.phase_seconds)
            self._goodput.accounts.mark(step)

    def checkpoint(self, step: int, path: Path | str, seconds: float, result: str = "saved") -> None:
        """Count a checkpoint: `saved` (in `seconds`), `failed` to save, or `damaged` when loaded."""
        if result not in CHECKPOINT_RESULTS:
            raise ValueError(
                f"unknown checkpoint result {result!r}: it must be one of {', '.join(CHECKPOINT_RESULTS)}"
            )
        self.job.checkpoints[result] += 1
        if result == "saved":
            self.job.last_checkpoint = CheckpointRecord(step, self._relative(path), time.time())
            self.job.checkpoint_seconds = seconds
            self._next_accounts = 0.0
        self.publish()

    def restored(self, step: int, path: Path | str, saved_at: float) -> None:
        """Report the checkpoint that this attempt continues from, committed at `saved_at` (epoch seconds)."""
        self.job.last_checkpoint = CheckpointRecord(step, self._relative(path), saved_at)
        self.publish()

    def skipped(self, reason: SkipReason, count: int = 1) -> None:
        """Count optimizer steps whose update was skipped because of `nonfinite` gradients or a `spike`."""
        self.job.skipped_steps[reason] += count
        self._publish_soon()

    def anomaly(self, kind: Anomaly, action: Action, count: int = 1) -> None:
        """Count anomalies of a kind and the action taken."""
        if action not in ACTIONS[kind]:
            raise ValueError(f"{kind} has no action {action}: it must be one of {', '.join(ACTIONS[kind])}")
        self.job.anomalies[kind][action] += count
        self._publish_soon()

    def rolled_back(self, step: int, lost_steps: int) -> None:
        """Report that all ranks went back to `step`, discarding `lost_steps` optimizer steps."""
        self.job.rollbacks += 1
        self.job.lost_steps += lost_steps
        # The latest values belong to discarded steps.
        self.job.logged_step = self.job.validation_step = None
        self.snapshot.step = step
        self.rewound(step)
        self.publish()

    def stopped_early(self, reason: str) -> None:
        """Report why training ends before its last step."""
        self.job.stop_reason = reason
        self.publish()

    def event(self, kind: str, step: int | None, message: str) -> None:
        """Add an event to `/progress`, which keeps the newest `MAX_EVENTS`."""
        events = self.snapshot.events
        events.append(JobEvent(time.time(), kind, step, message[:MAX_MESSAGE]))
        del events[:-MAX_EVENTS]
        self.publish()

    def micro_batch(self, samples: int) -> None:
        """Report the largest number of samples of the current length in one pass of a rank."""
        self.job.micro_batch_size = samples

    def device_memory(self, *, allocated: int, reserved: int, peak: int) -> None:
        """Report the accelerator's memory of this rank in bytes."""
        self.snapshot.memory.update(device_allocated=allocated, device_reserved=reserved, device_peak=peak)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Book the time inside to phase `name`; phases nest, and each second belongs to the innermost."""
        if name not in PHASES:
            raise ValueError(f"unknown phase {name!r}: it must be one of {', '.join(PHASES)}")
        self._settle()
        self._phases.append(name)
        try:
            yield
        finally:
            self._settle()
            self._phases.pop()

    def initialised(self) -> None:
        """End the phase `init`: from now on, time outside a named phase is `other`."""
        self._settle()
        self._phases[0] = "other"

    def publish(self) -> None:
        """Replace the snapshot file now."""
        self._settle()
        snapshot = self.snapshot
        snapshot.phase = self._phases[-1]
        snapshot.updated_at = time.time()
        self._next_write = snapshot.updated_at + MIN_INTERVAL
        if self._goodput is not None:
            self._account(self._goodput)
        if self._file is None:
            return
        rss, _ = self.host.read()
        snapshot.memory.update(rss=rss, rss_peak=self.host.peak)
        # Monitoring never stops training: without space or directory, the values just stay old.
        with contextlib.suppress(OSError):
            write_json(self._file, snapshot)

    def close(self, state: PodState = FINISHED) -> None:
        """Publish the last values with the final state."""
        self._next_accounts = 0.0
        self.state(state)

    def _account(self, goodput: GoodputFile) -> None:
        """Update the accounts, and write their file at most every ACCOUNTS_INTERVAL seconds."""
        snapshot, accounts = self.snapshot, goodput.accounts
        goodput.settle(snapshot.phase_seconds)
        self.job.goodput_seconds, self.job.badput_seconds = accounts.goodput, dict(accounts.badput)
        self.job.goodput_ratio = accounts.ratio
        if snapshot.updated_at >= self._next_accounts:
            self._next_accounts = snapshot.updated_at + ACCOUNTS_INTERVAL
            goodput.write()

    def _publish_soon(self) -> None:
        if time.time() >= self._next_write:
            self.publish()

    def _settle(self) -> None:
        """Book the time since the last call to the current phase."""
        now = time.monotonic()
        self.snapshot.phase_seconds[self._phases[-1]] += now - self._clock
        self._clock = now

    def _relative(self, path: Path | str) -> str:
        """Return `path` relative to the volume if it is on it."""
        if self._volume is not None:
            with contextlib.suppress(ValueError):
                return Path(path).relative_to(self._volume).as_posix()
        return str(path)


def _process_age() -> float:
    """Return the seconds since this process started; 0 if unknown."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    # starttime is field 22 in proc(5); this list starts at field 3. Both values use the host's uptime.
    return max(0.0, uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK"))
