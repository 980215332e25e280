"""The training loop: what each rank runs under torchrun, as `python -m aurl_trainer.train`.

Read `train` from top to bottom. What a run ends with depends on the job file, the data and the layout of
ranks and threads alone: data order, sequence length and learning rate are functions of the step, and
everything else that a step changes is in the checkpoint. So a run that is killed at any instant and started
again ends with the same bits as one that was not.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
from torch import Tensor, nn

from aurl_trainer import logs
from aurl_trainer.checkpoint.manager import CheckpointManager
from aurl_trainer.checkpoint.state import Progress, TrainingIdentity
from aurl_trainer.checkpoint.writer import CheckpointWriter, give_shards
from aurl_trainer.config import JobFile
from aurl_trainer.contract import Variable
from aurl_trainer.data.curriculum import Curriculum
from aurl_trainer.data.prepare import prepare
from aurl_trainer.distributed.runtime import Distributed, Layout
from aurl_trainer.distributed.sharding import local, local_gradients
from aurl_trainer.errors import UserError
from aurl_trainer.hooks.interface import Evaluation
from aurl_trainer.hooks.load import Hooks, load_hooks
from aurl_trainer.hooks.losses import ExtraLosses
from aurl_trainer.hooks.metrics import measure
from aurl_trainer.loop.batches import Batches, evaluation_batches
from aurl_trainer.loop.compute_time import ComputeTime
from aurl_trainer.loop.fitting import Fitting, out_of_memory_restarts
from aurl_trainer.loop.job_sampler import JobSampler
from aurl_trainer.loop.metric_logger import MetricLogger
from aurl_trainer.loop.recovery import Attempt, collect_frozen, make_room, release
from aurl_trainer.loop.resume import TrainingState, choose_checkpoint
from aurl_trainer.loop.rollback import Rollback
from aurl_trainer.loop.supervisor import Supervisor
from aurl_trainer.loop.tensorboard import TensorBoard
from aurl_trainer.loop.training_data import TrainingData
from aurl_trainer.memory.activation import ActivationCheckpointing
from aurl_trainer.memory.capacity import reserve_bytes
from aurl_trainer.memory.exhaustion import ExhaustionSnapshot
from aurl_trainer.memory.profile import MemoryProfile, write_profile
from aurl_trainer.model.compilation import Compilation
from aurl_trainer.model.transformer import Transformer
from aurl_trainer.model.utilisation import Utilisation, peak_flops
from aurl_trainer.monitor.failure import record_failure, run_directory
from aurl_trainer.monitor.report import RankReporter
from aurl_trainer.monitor.snapshot import write_json
from aurl_trainer.monitor.stacks import answer_with_stacks
from aurl_trainer.objective.choice import make_model, make_objective
from aurl_trainer.objective.objective import Objective
from aurl_trainer.optim.choice import make_optimizer
from aurl_trainer.optim.ema import WeightAverage
from aurl_trainer.optim.guard import UpdateGuard
from aurl_trainer.optim.schedule import dropout_at, learning_rate, ramp
from aurl_trainer.system.device import autocast, choose_device, fix_threads, set_tf32
from aurl_trainer.system.randomness import seed_everything

log = logging.getLogger("aurl_trainer.train")

COLLECT_EVERY = 500
"""Optimizer steps between two runs of the garbage collector, which is off otherwise: ranks pause together."""

NO_HOOKS = Hooks()

FINISHED, INTERRUPTED = "Finished", "Interrupted"


@dataclass(frozen=True)
class Ending:
    """How a run ended as planned: `Finished` or `Interrupted`, and why before its last step, if so."""

    state: str
    reason: str | None


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


def train(
    job: JobFile,
    data: TrainingData,
    job_dir: Path,
    distributed: Distributed,
    reporter: RankReporter,
    stop: StopRequest,
    hooks: Hooks = NO_HOOKS,
) -> Ending:
    """Train to the last step, to an early end, or until a rank is asked to stop.

    Raises UserError for a job that cannot work as it is, DivergenceError when the stability budget is spent,
    and OSError when the last checkpoint cannot be written.
    """
    config, update = job.training, job.training.optimizer
    profile = MemoryProfile(reporter, distributed.device, config.logging.every_steps)
    curriculum = Curriculum(config.curriculum, config.context_length, config.steps)
    tokens_per_step = config.batch.global_batch_size * config.context_length
    device, first = distributed.device, distributed.rank == 0
    threads = fix_threads(config.threads, distributed.layout.local_world_size)
    set_tf32(device, config.tf32)
    precision = autocast(device, config.precision)
    batches = Batches(data.train, config, curriculum, distributed.layout, device)

    model = make_model(config, data.vocabulary.size)
    utilisation = Utilisation(
        model, peak_flops(device, config.precision, config.logging.peak_teraflops), distributed.world_size
    )
    # Before the model is wrapped: what is computed again lies inside of what is synchronised or sharded.
    checkpointing = ActivationCheckpointing(model, config.memory.segments)
    fitting = Fitting(config, distributed, checkpointing, batches, restarts=out_of_memory_restarts())
    compilation = Compilation(model, device, wanted=config.compile)
    objective = make_objective(config, model, data.vocabulary, compilation.last_loss, device)
    network = distributed.wrap(objective.network, config.precision)
    parameters = dict(model.named_parameters())
    optimizer = make_optimizer(parameters, update)
    average = WeightAverage(parameters, config.ema) if config.ema.decay else None
    guard = UpdateGuard(
        config.stability,
        config.clip.max_norm,
        max_value=config.clip.max_value,
        adaptive_ratio=config.clip.adaptive_ratio,
        parameters=[local(parameter) for parameter in parameters.values()],
        scaled=config.precision == "fp16",
        device=device,
        sum_over_shards=distributed.sum if distributed.sharded else None,
    )
    extra = None
    if hooks.losses:
        assert isinstance(model, Transformer)
        extra = ExtraLosses(hooks.losses, model.norm, data.vocabulary, device, compilation.token_loss)
    identity = TrainingIdentity(
        config.mode,
        config.model.model_dump(by_alias=True),
        data.vocabulary.size,
        data.vocabulary.fingerprint,
        data.dataset.fingerprint,
    )
    state = TrainingState(
        parameters, optimizer, guard, identity, distributed, threads, average, objective.adversary
    )
    manager = CheckpointManager(
        job_dir / "checkpoints",
        keep_last=config.checkpoint.keep_last,
        keep_every_steps=config.checkpoint.keep_every_steps,
        keep_best=config.checkpoint.keep_best,
    )
    with reporter.phase("restore"):
        checkpoint = choose_checkpoint(manager, distributed, reporter)
    profile.enter("warm_up")
    if not fitting.resume(state.saved_memory(checkpoint)):
        fitting.decide(
            partial(throwaway_pass, objective, config.steps, compilation, precision, device),
            curriculum,
            reporter.host,
            reserve_bytes(
                device,
                total_bytes(map(local, parameters.values())),
                total_bytes(map(local, optimizer.tensors().values())),
                saves=first and config.checkpoint.asynchronous,
                wrapped=not distributed.alone,
            ),
        )
    state.memory = fitting.to_json()
    with reporter.phase("compile" if config.compile else "init"):
        shapes = batches.shapes(largest=not config.compile)
        warm_up(objective, network, shapes, config.steps, precision, device)
    graphs = compilation.graphs()

    seed_everything(config.seed, distributed.rank)
    progress = Progress()
    with reporter.phase("restore"), profile.phase("restore"):
        if checkpoint is not None:
            progress = state.restore(checkpoint)
            reporter.restored(progress.step, checkpoint.path, checkpoint.saved_at)
    writer = None
    if first:
        writer = CheckpointWriter(
            manager,
            asynchronous=config.checkpoint.asynchronous,
            retries=config.checkpoint.retries,
            retry_seconds=config.checkpoint.retry_seconds,
        )
    board = TensorBoard(
        job_dir / "tensorboard", enabled=first and config.logging.tensorboard, start=progress.step
    )

    length = curriculum.length(min(progress.step + 1, config.steps))
    if first:
        reporter.keep_accounts(job_dir)
    reporter.begin(
        mode=config.mode,
        precision=config.precision,
        total_steps=config.steps,
        start_step=progress.step,
        sequence_length=length,
        batch_size=batches.samples(length),
        tokens_before=progress.trained_tokens,
        initial_loss=progress.initial_loss,
        validation_loss=progress.validation_loss,
        ema_validation_loss=progress.ema_validation_loss,
    )
    if first:
        size = sum(parameter.numel() for parameter in parameters.values())
        details = {
            "parameters": size,
            "device": str(device),
            "world_size": distributed.world_size,
            "strategy": distributed.strategy,
            "threads": threads,
            "micro_batch_size": batches.micro_batch_size(length),
            "activation_checkpointing": checkpointing.mode,
        }
        log.info("training begins", extra={"step": progress.step, "steps": config.steps, **details})
    reporter.initialised()
    reporter.state("Training")
    compute_time = ComputeTime(objective.network, distributed)
    metric_logger = MetricLogger(config, progress, reporter, board, first=first, utilisation=utilisation)
    job_sampler = JobSampler(job, job_dir, data, model, parameters, average, distributed, reporter)
    rollback = Rollback(state, manager, writer, distributed, metric_logger)
    supervisor = Supervisor(config, progress, rollback, distributed, metric_logger)

    # A backward pass weighs every token by 1 / (tokens per step), and DDP averages over ranks; the guard's
    # normaliser turns that into the mean over the tokens that are valid in this step, on all ranks together.
    weight = torch.full((), 1.0 / tokens_per_step, device=device)
    loss_sum = torch.full((), progress.interval_loss if first else 0.0, device=device)
    if extra is not None and first:
        extra.resume(progress.interval_terms)
    losses: list[Tensor] = []
    snapshot = None
    if config.memory.snapshot_on_out_of_memory:
        snapshot = ExhaustionSnapshot(job_dir / "memory", distributed.rank, device)
    attempt = Attempt(recoverable=not distributed.sharded, snapshot=snapshot)
    gc.collect()
    gc.freeze()
    gc.disable()
    profile.enter("training")
    interrupted, first_step = False, progress.step + 1

    while progress.step < config.steps and progress.stopped is None and not interrupted:
        step = progress.step + 1
        with reporter.phase("step"):
            with reporter.phase("data_wait"):
                micro_batches, valid_here = batches.next(progress.tokens, step)
            if config.dropout_schedule.final is not None:
                model.set_dropout(
                    dropout_at(config.dropout_schedule, config.model.dropout, step, config.steps)
                )
            backward_weight = weight * guard.scale if guard.scaled else weight
            profile.step(step)
            losses.clear()
            if extra is not None:
                extra.begin()
            exchanged = distributed.exchanges()
            with attempt.begin(step):
                for index, (inputs, targets) in enumerate(micro_batches, start=1):
                    # Gradients travel between ranks once per step, during the last backward pass.
                    with distributed.synchronised(network, index == len(micro_batches)):
                        with precision:
                            if extra is None:
                                minimised, loss = objective.losses(network, inputs, targets, step)
                            else:
                                loss, minimised = extra.losses(network(inputs), inputs, targets, step)
                        torch.autograd.backward(minimised, backward_weight)
                    losses.append(loss.detach())
            if attempt.failed:
                loss = minimised = weight  # lets go of what the failed pass has kept
                release(device)
                distributed.complete_exchange(network, exchanged)
            valid, interrupted, failures = distributed.vote(valid_here, stop.made, attempt.failed)
            if failures:
                # Nothing was applied on any rank: the same step again, in smaller micro-batches.
                optimizer.zero_grad()
                objective.forget()
                if extra is not None:
                    extra.undo()
                make_room(fitting, metric_logger, step, failures)
                state.memory = fitting.to_json()
                network = objective.network
                collect_frozen()  # the old wrapper, which would go on to exchange gradients
                network = distributed.wrap(objective.network, config.precision)
                with compilation.paused():
                    warm_up(objective, network, [(1, curriculum.lengths[0])], config.steps, precision, device)
                interrupted = False
                continue
            for part in losses:
                loss_sum += part
            if profile.watching:
                profile.enter("optimizer")

            rate = learning_rate(config.schedule, update.learning_rate, step, config.steps)
            rate *= progress.learning_rate_factor
            decay = ramp(update.weight_decay_schedule, update.weight_decay, step, config.steps)
            gradients = local_gradients(parameters.values())
            normaliser = distributed.world_size * tokens_per_step / max(valid, 1)
            if writer is not None:
                writer.settle()
            if curriculum.begins_length(step):
                guard.forget_norms()  # what is new in longer samples has longer gradients
            divisor, rejected = guard.admit(gradients, normaliser, step)
            optimizer.step(rate, decay, divisor, rejected)
            if average is not None:
                average.update(rejected)
            optimizer.zero_grad()
            if objective.adversary is not None:
                objective.adversary.step(distributed, step, rate / update.learning_rate)
            if profile.watching:
                profile.enter("training")

        length = curriculum.length(step)
        progress.advance(batches.samples(length), batches.after(progress.tokens, step), valid)
        reporter.heartbeat(step)
        if step == first_step:
            distributed.first_step_done()

        # Between two log lines the host never waits for the device.
        if step % config.logging.every_steps == 0 or step in (1, config.steps):
            own = compute_time.lap(reporter.waited, progress.interval_steps)
            total, paces = distributed.sum_and_share(loss_sum, own)
            loss_sum.zero_()
            reporter.paces(paces)
            terms = extra.read(distributed) if extra is not None else {}
            reporter.micro_batch(batches.micro_batch_size(length))
            components = objective.components(distributed)
            supervisor.interval(metric_logger.steps(total, rate, guard.read(), length, terms, components))
        every = config.evaluation.every_steps
        if (every and step % every == 0) or step == config.steps:
            with (
                metric_logger.interval.paused(),
                reporter.phase("evaluation"),
                profile.phase("evaluation"),
                compilation.paused(),
            ):
                size = fitting.plan.micro_batch_size
                held_out = partial(
                    evaluation_batches, data.validation, config, distributed.layout, device, size
                )
                measures, ema_loss = objective.evaluate(held_out(), distributed, precision), None
                seen = Evaluation(model, data.vocabulary, step, device, held_out, distributed.sum)
                with average.in_place() if average is not None else nullcontext():
                    if average is not None:
                        ema_loss = objective.evaluate(held_out(), distributed, precision).get("loss")
                    metrics = data.held_out.bits(measures.get("loss")) | measure(hooks.metrics, seen)
                    distributed.after_evaluation(model)
                if measures:
                    metric_logger.validation(measures.pop("loss"), ema_loss)
                    supervisor.evaluation(progress)
                metric_logger.metrics(measures | metrics)
        every = config.evaluation.music.every_steps
        if every and (step % every == 0 or step == config.steps):
            with metric_logger.interval.paused(), profile.phase("evaluation"), compilation.paused():
                metric_logger.metrics(job_sampler.judge(step))
        every = config.sample.every_steps
        if every and step % every == 0 and step < config.steps:
            with metric_logger.interval.paused(), profile.phase("sample"), compilation.paused():
                try:
                    job_sampler.sample(step)
                except OSError as error:  # a volume that is full stops no training
                    log.error("samples cannot be written", extra={"step": step, "reason": str(error)})
        if supervisor.pending:
            noticed, progress = progress, supervisor.act(progress)
            if progress is not noticed:  # all ranks are back at the last healthy checkpoint
                objective.forget()
                loss_sum.fill_(progress.interval_loss if first else 0.0)
                if extra is not None:
                    extra.resume(progress.interval_terms if first else {})
                continue
        ends = step == config.steps or interrupted or progress.stopped is not None
        if step % config.checkpoint.every_steps == 0 or ends or supervisor.wants_checkpoint(step):
            with metric_logger.interval.paused(), reporter.phase("checkpoint"), profile.phase("checkpoint"):
                supervisor.record(progress, guard.read().consecutive)
                progress.interval_loss = float(distributed.sum(loss_sum))
                loss_sum.fill_(progress.interval_loss if first else 0.0)
                if extra is not None:
                    progress.interval_terms = extra.read(distributed)
                    extra.resume(progress.interval_terms if first else {})
                reporter.saving(step)
                contents = state.contents(progress, job.model_dump(mode="json", by_alias=True))
                if writer is not None:
                    metric_logger.saves(writer.save(step, contents))
                    board.flush()
                else:
                    give_shards(contents)
        elif writer is not None:
            metric_logger.saves(writer.poll())
        if step % COLLECT_EVERY == 0:
            gc.collect()

    gc.enable()
    peaks = distributed.gather_text(json.dumps(profile.summary()))
    reporter.state("Saving")
    if writer is not None:
        with reporter.phase("checkpoint"):
            metric_logger.saves(writer.close(hurry=interrupted))
        if writer.last is not None and writer.last.error is not None:
            raise writer.last.error
    if not interrupted:
        with metric_logger.interval.paused(), profile.phase("sample"), compilation.paused():
            job_sampler.sample(progress.step)
    board.close()
    if first:
        about = {"step": progress.step, "memory": state.memory}
        peaks[0] = json.dumps(profile.summary())
        log.info("memory peaks", extra=write_profile(job_dir / "memory" / "profile.json", peaks, about))
        result = {"loss": progress.loss, "interrupted": interrupted}
        if config.compile:
            result["recompiled_graphs"] = compilation.graphs() - graphs
        log.info("training ends", extra={"step": progress.step, **result})
    return Ending(INTERRUPTED if interrupted else FINISHED, progress.stopped)


def total_bytes(tensors: Iterable[Tensor]) -> int:
    """Return how many bytes tensors hold."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def throwaway_pass(
    objective: Objective,
    step: int,
    compilation: Compilation,
    precision: AbstractContextManager[object],
    device: torch.device,
    samples: int,
    length: int,
) -> float:
    """Run a forward and a backward pass as it is written, throw the result away and return the seconds."""
    tokens = torch.zeros(samples, length, dtype=torch.int64, device=device)
    began = time.perf_counter()
    with compilation.paused():
        with precision:
            loss = objective.losses(objective.network, tokens, tokens, step).objective
        torch.autograd.backward(loss)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - began
    objective.forget()
    for parameter in objective.network.parameters():
        parameter.grad = None
    return seconds


def warm_up(
    objective: Objective,
    network: nn.Module,
    shapes: Iterable[tuple[int, int]],
    step: int,
    precision: AbstractContextManager[object],
    device: torch.device,
) -> None:
    """Run passes of each (samples, tokens per sample) of `step` whose results are thrown away.

    After its first pass DDP fixes the order in which it adds gradients up; a resumed run would otherwise add
    its first step up in another order than the run that it continues. It also allocates memory before the
    first step.
    """
    for shape in shapes:
        tokens = torch.zeros(shape, dtype=torch.int64, device=device)
        for _ in range(2):  # DDP rebuilds its buckets at the beginning of the second
            with precision:
                loss = objective.losses(network, tokens, tokens, step).objective
            torch.autograd.backward(loss)
            for parameter in network.parameters():
                parameter.grad = None
    objective.forget()


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
        # The launcher has prepared the dataset; this checks it once for all ranks.
        found = prepare(job.dataset, job_dir, volume, _silent).fingerprint if layout.rank == 0 else ""
        distributed = Distributed(layout, device, job.training.distribution)
        dataset = job_dir / "dataset" / distributed.gather_text(found)[0]
        data = TrainingData.open(dataset, job.training.context_length, job.training.seed, job.dataset)
        with distributed.explained(lambda: reporter.snapshot.step + 1):
            ending = train(job, data, job_dir, distributed, reporter, stop, hooks)
        reporter.close()
    if run_dir is not None:
        write_json(run_dir / f"result-{layout.rank}.json", ending)
    return 0


def _silent(done: int, total: int, dropped: int) -> None:
    """Take no notice of the files of a preparation that has happened before."""


def _required(environment: Mapping[str, str], name: str) -> str:
    if not environment.get(name):
        raise UserError(f"The environment variable {name} is not set; ranks are started by `aurl-trainer`.")
    return environment[name]


def run() -> NoReturn:
    """Run one rank and end this process without taking the process group apart.

    Gloo's threads let go of the last collective's tensors when they come to it, and need Python's lock for
    that; the group's destructor waits for those threads while this one holds the lock. That is the likely
    cause of two jobs of two ranks that had finished under load and never ended.
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
    run()
