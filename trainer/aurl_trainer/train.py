"""The training loop, which each rank runs under torchrun as `python -m aurl_trainer.train`.

Read `train` and `train_step` from top to bottom; `build.py` has the set-up. The result of a run depends only
on the job file, the data and the layout of ranks and threads: data order, sequence length and learning rate
are functions of the step, and everything else that a step changes is in the checkpoint. So a run that is
killed at any moment and restarted ends with the same bits as one that was not.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch

from aurl_trainer import logs
from aurl_trainer.build import Run, build
from aurl_trainer.checkpoint.writer import give_shards
from aurl_trainer.config import JobFile
from aurl_trainer.contract import FINISHED, INTERRUPTED, Variable
from aurl_trainer.data.prepare import prepare
from aurl_trainer.distributed.runtime import Distributed, Layout
from aurl_trainer.distributed.sharding import local_gradients
from aurl_trainer.errors import UserError
from aurl_trainer.hooks.interface import Evaluation
from aurl_trainer.hooks.load import load_hooks, measure
from aurl_trainer.loop.batches import evaluation_batches
from aurl_trainer.loop.recovery import collect_frozen, release, shrink_micro_batches
from aurl_trainer.loop.training_data import TrainingData
from aurl_trainer.memory.profile import write_profile
from aurl_trainer.monitor.failure import record_failure, run_directory
from aurl_trainer.monitor.report import RankReporter
from aurl_trainer.monitor.snapshot import write_json
from aurl_trainer.monitor.stacks import answer_with_stacks
from aurl_trainer.objective.objective import Losses, MicroBatch
from aurl_trainer.optim.schedule import dropout_at, learning_rate, ramp
from aurl_trainer.system.device import choose_device

log = logging.getLogger("aurl_trainer.train")

COLLECT_EVERY = 500
"""Optimizer steps between two runs of the garbage collector, which is off otherwise: ranks pause together."""


@dataclass(frozen=True)
class Ending:
    """How a run ended: `Finished` or `Interrupted`, and why if it finished before its last step."""

    state: str
    reason: str | None


@dataclass(frozen=True)
class StepResult:
    """What the loop needs to know of a step that was applied."""

    learning_rate: float
    valid_tokens: int
    """Targets that counted, on all ranks."""
    interrupted: bool
    """True if a rank was asked to stop; the same on all ranks."""


class StopRequest:
    """Set by SIGTERM or SIGINT; the ranks vote on it in every step, so that all stop after the same one."""

    def __init__(self) -> None:
        self.made = False

    def listen(self) -> None:
        """Take over the signals of this process."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._make)

    def _make(self, number: int, frame: FrameType | None) -> None:
        self.made = True


def every_n(step: int, n: int) -> bool:
    """True if something that happens every `n` steps happens after `step`; `n` = 0 is never."""
    return n > 0 and step % n == 0


def train(run: Run, stop: StopRequest) -> Ending:
    """Train to the last step, to an early end, or until a rank is asked to stop.

    Raises DivergenceError when the stability budget is spent, OutOfMemoryError when micro-batches cannot be
    smaller, UserError for a failing hook, and OSError when the last checkpoint cannot be written.
    """
    config, reporter = run.config, run.reporter
    start(run)
    interrupted, first_step = False, run.progress.step + 1
    while run.progress.step < config.steps and run.progress.stopped is None and not interrupted:
        step = run.progress.step + 1
        last = step == config.steps
        with reporter.phase("step"):
            result = train_step(run, step, stop)
        if result is None:
            continue  # out of memory: the same step again, in smaller micro-batches

        interrupted, length = result.interrupted, run.curriculum.length(step)
        tokens = run.batches.after(run.progress.tokens, step)
        run.progress.advance(run.batches.samples(length), tokens, result.valid_tokens)
        reporter.heartbeat(step)
        if step == first_step:
            run.distributed.first_step_done()

        # Between two log lines the host never waits for the device.
        if every_n(step, config.logging.every_steps) or step == 1 or last:
            log_interval(run, step, result.learning_rate)
        if every_n(step, config.evaluation.every_steps) or last:
            evaluate(run, step)
        music = config.evaluation.music.every_steps
        if every_n(step, music) or (music and last):
            evaluate_music(run, step)
        if every_n(step, config.sample.every_steps) and not last:
            write_samples(run, step)
        if run.supervisor.pending and rolled_back(run):
            continue
        ends = last or interrupted or run.progress.stopped is not None
        if every_n(step, config.checkpoint.every_steps) or ends or run.supervisor.wants_checkpoint(step):
            save_checkpoint(run, step)
        elif run.writer is not None:
            run.metric_logger.saves(run.writer.poll())
        if every_n(step, COLLECT_EVERY):
            gc.collect()
    return finish(run, interrupted)


def train_step(run: Run, step: int, stop: StopRequest) -> StepResult | None:
    """Run one optimizer step on all ranks; None if one of them ran out of memory and nothing was applied."""
    config, distributed, profile = run.config, run.distributed, run.profile
    with run.reporter.phase("data_wait"):
        micro_batches, valid_here = run.batches.next(run.progress.tokens, step)
    if config.dropout_schedule.final is not None:
        dropout = dropout_at(config.dropout_schedule, config.model.dropout, step, config.steps)
        run.model.set_dropout(dropout)
    profile.step(step)
    exchanged = distributed.exchanges()

    losses = forward_backward(run, micro_batches, step)
    failed = run.out_of_memory.caught
    if failed:
        release(distributed.device)
        distributed.complete_exchange(run.network, exchanged)
    valid, interrupted, failures = distributed.vote(valid_here, stop.made, failed)
    if failures:
        retry_smaller(run, step, failures)
        return None

    run.sums.add(losses)
    profile.split("optimizer")
    rate = update_weights(run, step, valid)
    profile.split("training")
    return StepResult(rate, valid, interrupted)


def forward_backward(run: Run, micro_batches: Sequence[MicroBatch], step: int) -> list[Losses]:
    """Add up the gradients of a step and return the micro-batches' losses, without waiting for the device.

    Where an allocation fails, the passes stop and `run.out_of_memory.caught` is set.
    """
    weight = run.token_weight * run.state.guard.scale if run.state.guard.scaled else run.token_weight
    done: list[Losses] = []
    with run.out_of_memory.during(step):
        for index, (inputs, targets) in enumerate(micro_batches, start=1):
            # Ranks exchange gradients once per step, during the last backward pass.
            with run.distributed.synchronised(run.network, index == len(micro_batches)):
                with run.precision:
                    losses = run.objective.losses(run.network, inputs, targets, step)
                torch.autograd.backward(losses.minimised, weight)
            done.append(losses.detached())
    return done


def update_weights(run: Run, step: int, valid_tokens: int) -> float:
    """Update the weights, their average and the critic; return the learning rate."""
    config, state = run.config, run.state
    peak = config.optimizer.learning_rate
    rate = learning_rate(config.schedule, peak, step, config.steps) * run.progress.learning_rate_factor
    decay = ramp(config.optimizer.weight_decay_schedule, config.optimizer.weight_decay, step, config.steps)
    # Backward passes weigh every token by 1 / (tokens per step), and DDP averages over ranks; this turns that
    # into the mean over the tokens of all ranks that are valid in this step.
    normaliser = run.distributed.world_size * config.tokens_per_step / max(valid_tokens, 1)
    if run.writer is not None:
        run.writer.settle()  # a checkpoint may still be copying the weights
    if run.curriculum.begins_length(step) or run.objective.weight_jumps_at(step):
        state.guard.forget_norms()  # longer samples and other losses have other gradients
    divisor, rejected = state.guard.admit(local_gradients(state.parameters.values()), normaliser, step)
    state.optimizer.step(rate, decay, divisor, rejected)
    if state.average is not None:
        state.average.update(rejected)
    state.optimizer.zero_grad()
    if run.objective.adversary is not None:
        run.objective.adversary.step(run.distributed, step, rate / peak)
    return rate


def retry_smaller(run: Run, step: int, failures: int) -> None:
    """Get ready to run `step` again in smaller micro-batches, after `failures` ranks ran out of memory."""
    run.state.optimizer.zero_grad()
    run.objective.forget()
    shrink_micro_batches(run.fitting, run.metric_logger, step, failures)
    run.state.memory = run.fitting.to_json()
    run.compilation.expect(len(run.batches.shapes(largest=False)))
    run.network = run.objective.network
    collect_frozen()  # the old wrapper, which would keep exchanging gradients
    run.network = run.distributed.wrap(run.objective.network, run.config.precision)
    with run.compilation.paused():
        run.rehearsal.warm_up(run.network, [(1, run.curriculum.lengths[0])])


def log_interval(run: Run, step: int, rate: float) -> None:
    """Report the steps since the last log line, and let the detectors look at them; waits for the device."""
    length, reporter = run.curriculum.length(step), run.reporter
    own_seconds = run.compute_time.lap(reporter.waited, run.progress.interval_steps)
    loss, seconds, terms = run.sums.take(own_seconds)
    reporter.compute_times(seconds)
    reporter.micro_batch(run.batches.micro_batch_size(length))
    components = run.objective.components(run.distributed)
    guard = run.state.guard.read()
    if run.objective.adversary is not None:
        run.metric_logger.critic(run.objective.adversary.guard.read())
    run.supervisor.interval(run.metric_logger.steps(loss, rate, guard, length, terms, components))


def evaluate(run: Run, step: int) -> None:
    """Measure the weights and their average on held-out batches, with the user's metrics."""
    objective, average, distributed, data = run.objective, run.state.average, run.distributed, run.data
    size = run.fitting.plan.micro_batch_size
    held_out = partial(
        evaluation_batches, data.validation, run.config, distributed.layout, distributed.device, size
    )
    with run.outside_steps("evaluation"):
        measures, ema_loss = objective.evaluate(held_out(), distributed, run.precision), None
        evaluation = Evaluation(
            run.model, data.vocabulary, step, distributed.device, held_out, distributed.sum
        )
        with average.in_place() if average is not None else nullcontext():
            if average is not None:
                ema_loss = objective.evaluate(held_out(), distributed, run.precision).get("loss")
            metrics = data.held_out.bits(measures.get("loss")) | measure(run.hooks.metrics, evaluation)
            distributed.after_evaluation(run.model)
        if measures:
            run.metric_logger.validation(measures.pop("loss"), ema_loss)
            run.supervisor.evaluation(run.progress)
        run.metric_logger.metrics(measures | metrics)


def evaluate_music(run: Run, step: int) -> None:
    """Compare sampled music with the corpus."""
    with run.outside_steps("evaluation"), run.distributed.wait_for_first():
        run.metric_logger.metrics(run.sampler.judge(step))


def write_samples(run: Run, step: int) -> None:
    """Write sampled music to the volume."""
    with run.outside_steps("sample"), run.distributed.wait_for_first():
        try:
            run.sampler.sample(step)
        except OSError as error:  # a full volume does not stop training
            log.error("samples cannot be written", extra={"step": step, "reason": str(error)})


def rolled_back(run: Run) -> bool:
    """Act on what the detectors found; True if all ranks are back at the last healthy checkpoint."""
    before = run.progress
    run.progress = run.supervisor.act(before)
    if run.progress is before:
        return False
    run.objective.forget()
    run.sums.restore(run.progress)
    return True


def save_checkpoint(run: Run, step: int) -> None:
    """Save everything that steps change; rank 0 writes, in the background unless configured otherwise."""
    with run.outside_steps("checkpoint"):
        run.supervisor.record(run.progress, run.state.guard.read().consecutive)
        run.sums.save(run.progress)
        run.reporter.saving(step)
        contents = run.state.contents(run.progress, run.job.model_dump(mode="json", by_alias=True))
        if run.writer is not None:
            run.metric_logger.saves(run.writer.save(step, contents))
            run.board.flush()
        else:
            give_shards(contents)


def start(run: Run) -> None:
    """Report what will be trained, and leave garbage collection to the loop."""
    config, progress, reporter, distributed = run.config, run.progress, run.reporter, run.distributed
    length = run.curriculum.length(min(progress.step + 1, config.steps))
    if run.first:
        reporter.keep_accounts(run.job_dir)
    reporter.begin(
        mode=config.mode,
        precision=config.precision,
        total_steps=config.steps,
        start_step=progress.step,
        sequence_length=length,
        batch_size=run.batches.samples(length),
        tokens_before=progress.trained_tokens,
        initial_loss=progress.initial_loss,
        validation_loss=progress.validation_loss,
        ema_validation_loss=progress.ema_validation_loss,
    )
    if run.first:
        details = {
            "parameters": sum(parameter.numel() for parameter in run.state.parameters.values()),
            "device": str(distributed.device),
            "world_size": distributed.world_size,
            "strategy": distributed.strategy,
            "threads": torch.get_num_threads(),
            "micro_batch_size": run.batches.micro_batch_size(length),
            "activation_checkpointing": run.fitting.plan.activation_checkpointing,
        }
        log.info("training started", extra={"step": progress.step, "steps": config.steps, **details})
    reporter.initialised()
    reporter.state("Training")
    gc.collect()
    gc.freeze()
    gc.disable()
    run.profile.enter("training")


def finish(run: Run, interrupted: bool) -> Ending:
    """Wait for the last checkpoint, write the last samples, and report how training ended."""
    progress, reporter, writer, profile = run.progress, run.reporter, run.writer, run.profile
    gc.enable()
    peaks = run.distributed.gather_text(json.dumps(profile.summary()))
    reporter.state("Saving")
    if writer is not None:
        with reporter.phase("checkpoint"):
            run.metric_logger.saves(writer.close(hurry=interrupted))
        if writer.last is not None and writer.last.error is not None:
            raise writer.last.error
    if not interrupted:
        with run.outside_steps("sample"):
            run.sampler.sample(progress.step)
    run.board.close()
    if run.first:
        about = {"step": progress.step, "memory": run.state.memory}
        peaks[0] = json.dumps(profile.summary())
        found = write_profile(run.job_dir / "memory" / "profile.json", peaks, about)
        log.info("memory peaks", extra=found)
        result = {"loss": progress.loss, "interrupted": interrupted}
        if run.config.compile:
            result["recompiled_graphs"] = run.compilation.graphs() - run.compiled_graphs
        log.info("training ended", extra={"step": progress.step, **result})
    return Ending(INTERRUPTED if interrupted else FINISHED, progress.stopped)


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Run one rank as docs/contracts.md says; its result or failure is left for the launcher."""
    logs.setup(environment)
    layout = Layout.from_environment(environment)
    run_dir = run_directory()
    stop = StopRequest()
    stop.listen()
    answer_with_stacks(run_dir, layout.rank)
    with record_failure(run_dir, layout.rank):
        reporter = RankReporter.from_environment(environment)
        job = JobFile.load(Path(_required(environment, Variable.CONFIG)))
        volume = Path(_required(environment, Variable.VOLUME))
        identity = (_required(environment, name) for name in (Variable.JOB_NAMESPACE, Variable.JOB_NAME))
        job_dir = Path(environment.get(Variable.JOB_DIR) or volume.joinpath(*identity))
        hooks = load_hooks(job.training.hooks, volume)
        device = choose_device(job.training.device, layout.local_rank, layout.world_size)
        # The launcher has prepared the dataset; this finds it, without reading it, for all ranks.
        found = prepare(job.dataset, job_dir, volume, _silent).fingerprint if layout.rank == 0 else ""
        distributed = Distributed(layout, device, job.training.distribution)
        dataset = job_dir / "dataset" / distributed.gather_text(found)[0]
        data = TrainingData.open(dataset, job.training.context_length, job.training.seed, job.dataset)
        with distributed.explained(lambda: reporter.snapshot.step + 1):
            ending = train(build(job, data, job_dir, distributed, reporter, hooks), stop)
        reporter.close()
    if run_dir is not None:
        write_json(run_dir / f"result-{layout.rank}.json", ending)
    return 0


def _silent(done: int, total: int, dropped: int) -> None:
    """Ignore the progress of a preparation that is only checked."""


def _required(environment: Mapping[str, str], name: str) -> str:
    if not environment.get(name):
        raise UserError(f"The environment variable {name} is not set; ranks are started by `aurl-trainer`.")
    return environment[name]


def run_rank() -> NoReturn:
    """Run one rank and exit without destroying the process group.

    Gloo's threads release the last collective's tensors some time later, and need Python's lock for that; the
    group's destructor waits for those threads while this one holds the lock. That is the likely cause of two
    jobs of two ranks that had finished under load and never exited.
    """
    code = 1
    try:
        code = main()
    except Exception:  # noqa: BLE001 - the failure file has it already, and the process ends here
        traceback.print_exc()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run_rank()
