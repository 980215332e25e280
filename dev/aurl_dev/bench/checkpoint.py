"""Time that a checkpoint blocks the training loop: 100M parameters with AdamW's moments, on a CPU.

`blocked_ms` is the time in `save` and in `settle`, with the gradients of one step computed in between;
`slower_pass_ms` is how much longer computing them takes while the copy is made.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch

from aurl_trainer.checkpoint.manager import CheckpointManager, Contents
from aurl_trainer.checkpoint.writer import CheckpointWriter
from aurl_trainer.model.config import ModelConfig
from aurl_trainer.model.transformer import Transformer, token_loss_sum
from aurl_trainer.optim.choice import make_optimizer
from aurl_trainer.optim.config import OptimizerConfig

MODEL = ModelConfig(d_model=768, layers=14, heads=12)
SMALLEST = ModelConfig(d_model=16, layers=1, heads=2)
VOCABULARY = 774
BATCH, LENGTH = 4, 64


def measure_checkpoint(root: Path, repeats: int, model_config: ModelConfig = MODEL) -> dict[str, Any]:
    """Save the same state with both writers in turn; medians in milliseconds and seconds."""
    model = Transformer(model_config, VOCABULARY)
    model.initialise(0)
    optimizer = make_optimizer(dict(model.named_parameters()), OptimizerConfig())
    for moment in optimizer.tensors().values():  # as after a step: pages of zeros would cost nothing to copy
        moment.copy_(torch.rand_like(moment))
    state: dict[str, Any] = {"progress": {}}  # without evaluations: retention goes by age alone
    contents = Contents(dict(model.named_parameters()), optimizer.tensors(), state, {}, ["{}"])
    manager = CheckpointManager(root, keep_last=1)
    tokens = torch.randint(0, VOCABULARY, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    writers = {
        kind: CheckpointWriter(manager, asynchronous=kind == "blocked") for kind in ("blocked", "synchronous")
    }
    waits: dict[str, list[float]] = {kind: [] for kind in writers}
    passes: dict[str, list[float]] = {kind: [] for kind in writers}
    for repeat in range(repeats + 1):
        for number, (kind, writer) in enumerate(writers.items()):
            began = time.perf_counter()
            results = writer.save(2 * repeat + number + 1, contents)
            saved = time.perf_counter()
            torch.autograd.backward(token_loss_sum(model(tokens), tokens))
            computed = time.perf_counter()
            writer.settle()
            waited = saved - began + time.perf_counter() - computed
            results += writer.wait()
            assert all(result.error is None for result in results), results
            if repeat:  # the first save allocates the buffers
                waits[kind].append(waited)
                passes[kind].append(computed - saved)
    newest = manager.all()[-1]
    began = time.perf_counter()
    manager.verify(newest)
    verified = time.perf_counter()
    weights, moments = (newest.read_tensors(f"{part}.safetensors") for part in ("model", "optimizer"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
        for name, tensor in optimizer.tensors().items():
            tensor.copy_(moments[name])
    restored = time.perf_counter()
    blocked, synchronous = (statistics.median(waits[kind]) for kind in ("blocked", "synchronous"))
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bytes": sum(file.stat().st_size for file in newest.path.iterdir()),
        "blocked_ms": round(1000 * blocked, 1),
        "synchronous_ms": round(1000 * synchronous, 1),
        "slower_pass_ms": round(
            1000 * (statistics.median(passes["blocked"]) - statistics.median(passes["synchronous"])), 1
        ),
        "blocked_ratio": round(blocked / synchronous, 4),
        "restore_seconds": round(restored - verified, 2),
        "verify_seconds": round(verified - began, 2),
        "repeats": repeats,
    }
