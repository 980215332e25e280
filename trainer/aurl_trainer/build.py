"""The set-up of a training run: everything that happens before the first step, in order."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from aurl_trainer.checkpoint.manager import CheckpointManager
from aurl_trainer.checkpoint.state import Progress, TrainingIdentity
from aurl_trainer.checkpoint.writer import CheckpointWriter
from aurl_trainer.config import JobFile, TrainingConfig
from aurl_trainer.data.curriculum import Curriculum
from aurl_trainer.distributed.runtime import Distributed
from aurl_trainer.distributed.sharding import local
from aurl_trainer.hooks.load import Hooks
from aurl_trainer.loop.batches import Batches
from aurl_trainer.loop.compute_time import ComputeTime
from aurl_trainer.loop.fitting import Fitting, out_of_memory_restarts
from aurl_trainer.loop.interval import IntervalSums
from aurl_trainer.loop.job_sampler import JobSampler
from aurl_trainer.loop.metric_logger import MetricLogger
from aurl_trainer.loop.recovery import OutOfMemoryCatch
from aurl_trainer.loop.rehearsal import Rehearsal
from aurl_trainer.loop.resume import TrainingState, choose_checkpoint
from aurl_trainer.loop.rollback import Rollback
from aurl_trainer.loop.supervisor import Supervisor
from aurl_trainer.loop.tensorboard import TensorBoard
from aurl_trainer.loop.training_data import TrainingData
from aurl_trainer.memory.activation import ActivationCheckpointing
from aurl_trainer.memory.capacity import reserve_bytes, total_bytes
from aurl_trainer.memory.exhaustion import ExhaustionSnapshot
from aurl_trainer.memory.profile import MemoryProfile
from aurl_trainer.model.compilation import Compilation
from aurl_trainer.model.transformer import Transformer
from aurl_trainer.model.utilisation import Utilisation, peak_flops
from aurl_trainer.model.vae import VAE
from aurl_trainer.monitor.report import RankReporter
from aurl_trainer.objective.choice import make_model, make_objective
from aurl_trainer.objective.objective import Objective
from aurl_trainer.optim.choice import make_optimizer
from aurl_trainer.optim.ema import WeightAverage
from aurl_trainer.optim.guard import UpdateGuard
from aurl_trainer.system.device import autocast, fix_threads, set_tf32
from aurl_trainer.system.randomness import seed_everything

log = logging.getLogger("aurl_trainer.train")

NO_HOOKS = Hooks()


@dataclass
class Run:
    """All that the training loop works with. Only `progress` and `network` are ever replaced."""

    job: JobFile
    job_dir: Path
    data: TrainingData
    hooks: Hooks

    distributed: Distributed
    precision: AbstractContextManager[object]
    curriculum: Curriculum
    batches: Batches

    model: Transformer | VAE
    objective: Objective
    network: nn.Module
    """The objective's network as DDP or FSDP has wrapped it."""
    state: TrainingState
    """All that steps change: weights, their average, optimizer, guard and critic."""
    progress: Progress
    token_weight: Tensor
    """Weight of a token in a backward pass: 1 / (tokens per step)."""
    compilation: Compilation
    compiled_graphs: int
    """Graphs that the warm-up has compiled."""

    writer: CheckpointWriter | None
    """On rank 0."""
    fitting: Fitting
    rehearsal: Rehearsal
    out_of_memory: OutOfMemoryCatch

    reporter: RankReporter
    board: TensorBoard
    profile: MemoryProfile
    compute_time: ComputeTime
    metric_logger: MetricLogger
    sums: IntervalSums
    sampler: JobSampler
    supervisor: Supervisor

    @property
    def config(self) -> TrainingConfig:
        """The training configuration."""
        return self.job.training

    @property
    def first(self) -> bool:
        """True on rank 0."""
        return self.distributed.rank == 0

    @contextmanager
    def outside_steps(self, phase: str) -> Iterator[None]:
        """Account the time inside to `phase` instead of to steps, and run models uncompiled."""
        with (
            self.metric_logger.interval.paused(),
            self.reporter.phase(phase),
            self.profile.phase(phase),
            self.compilation.paused(),
        ):
            yield


def build(
    job: JobFile,
    data: TrainingData,
    job_dir: Path,
    distributed: Distributed,
    reporter: RankReporter,
    hooks: Hooks = NO_HOOKS,
) -> Run:
    """Build the model and everything around it, resume from the newest checkpoint, and warm up.

    Every rank must call it. Raises UserError for a job that cannot work as configured, OutOfMemoryError when
    the smallest micro-batch does not fit, and CheckpointMismatchError for another training's checkpoint.
    """
    config, device, first = job.training, distributed.device, distributed.rank == 0
    profile = MemoryProfile(reporter, device, config.logging.every_steps)
    threads = fix_threads(config.threads, distributed.layout.local_world_size)
    set_tf32(device, config.tf32)
    precision = autocast(device, config.precision)
    curriculum = Curriculum(config.curriculum, config.context_length, config.steps)
    batches = Batches(data.train, config.batch.global_batch_size, curriculum, distributed.layout, device)

    model = make_model(config, data.vocabulary.size)
    utilisation = Utilisation(
        model, peak_flops(device, config.precision, config.logging.peak_teraflops), distributed.world_size
    )
    # Before the model is wrapped: recomputed segments lie inside what is synchronised or sharded.
    checkpointing = ActivationCheckpointing(model, config.memory.segments)
    fitting = Fitting(config, distributed, checkpointing, batches, restarts=out_of_memory_restarts())
    compilation = Compilation(model, device, enabled=config.compile)
    token_loss = compilation.token_loss if hooks.losses else compilation.last_loss
    objective = make_objective(config, model, data.vocabulary, token_loss, device, hooks.losses)
    network = distributed.wrap(objective.network, config.precision)
    state = _training_state(config, data, objective, distributed, threads)
    manager = CheckpointManager(
        job_dir / "checkpoints",
        keep_last=config.checkpoint.keep_last,
        keep_every_steps=config.checkpoint.keep_every_steps,
        keep_best=config.checkpoint.keep_best,
    )
    with reporter.phase("restore"):
        checkpoint = choose_checkpoint(manager, distributed, reporter)

    profile.enter("warm_up")
    rehearsal = Rehearsal(objective, compilation, precision, device, config.steps)
    if not fitting.resume(state.saved_memory(checkpoint)):
        reserve = _reserve_bytes(config, state, distributed)
        fitting.decide(rehearsal.timed_pass, curriculum, reporter.host, reserve)
    state.memory = fitting.to_json()
    shapes = batches.shapes(largest=not config.compile)
    compilation.expect(len(shapes))
    with reporter.phase("compile" if config.compile else "init"):
        rehearsal.warm_up(network, shapes)

    seed_everything(config.seed, distributed.rank)
    progress = Progress()
    with reporter.phase("restore"), profile.phase("restore"):
        if checkpoint is not None:
            progress = state.restore(checkpoint)
            reporter.restored(progress.step, checkpoint.path, checkpoint.saved_at)
    sums = IntervalSums(objective.extra_terms, distributed)
    sums.restore(progress)
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
    metric_logger = MetricLogger(config, progress, reporter, board, first=first, utilisation=utilisation)
    rollback = Rollback(state, manager, writer, distributed, metric_logger)
    snapshot = None
    if config.memory.snapshot_on_out_of_memory:
        snapshot = ExhaustionSnapshot(job_dir / "memory", distributed.rank, device)
    return Run(
        job=job,
        job_dir=job_dir,
        data=data,
        hooks=hooks,
        distributed=distributed,
        precision=precision,
        curriculum=curriculum,
        batches=batches,
        model=model,
        objective=objective,
        network=network,
        state=state,
        progress=progress,
        token_weight=torch.full((), 1.0 / config.tokens_per_step, device=device),
        compilation=compilation,
        compiled_graphs=compilation.graphs(),
        writer=writer,
        fitting=fitting,
        rehearsal=rehearsal,
        out_of_memory=OutOfMemoryCatch(recoverable=not distributed.sharded, snapshot=snapshot),
        reporter=reporter,
        board=board,
        profile=profile,
        compute_time=ComputeTime(objective.network, distributed),
        metric_logger=metric_logger,
        sums=sums,
        sampler=JobSampler(job, job_dir, data, model, state.parameters, state.average, distributed),
        supervisor=Supervisor(config, progress, rollback, distributed, metric_logger),
    )


def _training_state(
    config: TrainingConfig,
    data: TrainingData,
    objective: Objective,
    distributed: Distributed,
    threads: int,
) -> TrainingState:
    parameters = dict(objective.model.named_parameters())
    guard = UpdateGuard(
        config.stability,
        config.clip.max_norm,
        max_value=config.clip.max_value,
        adaptive_ratio=config.clip.adaptive_ratio,
        parameters=[local(parameter) for parameter in parameters.values()],
        scaled=config.precision == "fp16",
        device=distributed.device,
        sum_over_shards=distributed.sum if distributed.sharded else None,
    )
    identity = TrainingIdentity(
        config.mode,
        config.model.model_dump(by_alias=True),
        data.vocabulary.size,
        data.vocabulary.fingerprint,
        data.dataset.fingerprint,
    )
    return TrainingState(
        parameters,
        make_optimizer(parameters, config.optimizer),
        guard,
        identity,
        distributed,
        threads,
        WeightAverage(parameters, config.ema) if config.ema.decay else None,
        objective.adversary,
    )


def _reserve_bytes(config: TrainingConfig, state: TrainingState, distributed: Distributed) -> int:
    return reserve_bytes(
        distributed.device,
        total_bytes(map(local, state.parameters.values())),
        total_bytes(map(local, state.optimizer.tensors().values())),
        saves=distributed.rank == 0 and config.checkpoint.asynchronous,
        wrapped=not distributed.alone,
    )
