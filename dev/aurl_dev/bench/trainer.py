"""`make bench-trainer`: the complete trainer against a plain loop, into build/bench/trainer.json.

Both train the same model and alternate in one process, so a slow moment of the machine affects both. The
trainer's time covers all its training phases: steps, waits for data, log lines and metrics, and a checkpoint
per 200 steps with the wait until it is written. Start and final evaluation do not count, as the plain loop
has neither.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from aurl_dev.bench import checkpoint, gpu, result
from aurl_dev.bench.checkpoint import measure_checkpoint
from aurl_dev.bench.plain import PlainLoop
from aurl_dev.melodies import write_music
from aurl_trainer import logs
from aurl_trainer.build import build
from aurl_trainer.config import JobFile
from aurl_trainer.data.prepare import prepare
from aurl_trainer.distributed.runtime import Distributed, Layout
from aurl_trainer.loop.training_data import TrainingData
from aurl_trainer.monitor.report import RankReporter
from aurl_trainer.train import StopRequest, train

CHECKPOINT_EVERY = 200

DATASET: dict[str, Any] = {
    "source": {"directory": {"path": "midi"}},
    # A vocabulary of 774 tokens.
    "tokenizer": {"positionsPerQuarter": 12, "velocityBins": 64, "tempoBins": 243},
    "split": {"validationFraction": 0.05, "testFraction": 0.0},
    "workers": 1,
}
COMMON: dict[str, Any] = {
    "device": "cpu",
    "precision": "fp32",
    "optimizer": {"kind": "adamw", "learningRate": 1e-3},
    "checkpoint": {"everySteps": CHECKPOINT_EVERY, "keepLast": 2},
    "evaluation": {"everySteps": 0, "batches": 1},
    "logging": {"everySteps": 10, "tensorboard": True},
    "sample": {"count": 0},
}


@dataclass(frozen=True)
class Shape:
    """A model, a batch of `samples` × `length` tokens, and the steps of one repeat."""

    model: dict[str, int]
    samples: int
    length: int
    steps: int

    def training(self, threads: int) -> dict[str, Any]:
        """Return the training section of the job."""
        batch = {"globalBatchSize": self.samples, "microBatchSize": self.samples}
        shape = {"steps": self.steps, "contextLength": self.length, "model": self.model, "batch": batch}
        return {**COMMON, **shape, "threads": threads}


SHAPES = {
    "headline": Shape({"dModel": 64, "layers": 1, "heads": 8}, 16, 64, 200),
    "medium": Shape({"dModel": 256, "layers": 4, "heads": 8}, 8, 512, 20),
}
SMALLEST = Shape({"dModel": 16, "layers": 1, "heads": 2}, 2, 32, 2)
PHASES = (*SHAPES, "checkpoint", "gpu")


class Trainer:
    """The real loop on a prepared, memory-mapped dataset, each run in a new directory."""

    def __init__(self, root: Path, shape: Shape, threads: int) -> None:
        self.root, self.runs = root, 0
        document = {"dataset": DATASET, "training": shape.training(threads)}
        self.job = JobFile.parse(document, "the benchmark")
        (root / "job.yaml").write_text(yaml.safe_dump(document))
        write_music(root / "midi", pieces=200)
        prepared = prepare(self.job.dataset, root / "space" / "job", root, lambda *_: None)
        training = self.job.training
        self.data = TrainingData.open(prepared.path, training.context_length, training.seed)

    def seconds(self) -> float:
        """Train the job and return the duration of its training phases."""
        self.runs += 1
        directory = self.root / f"run-{self.runs}"
        (directory / "run").mkdir(parents=True)
        distributed = Distributed(Layout(), torch.device("cpu"))
        reporter = RankReporter(directory / "run", volume=self.root)
        train(build(self.job, self.data, directory, distributed, reporter), StopRequest())
        reporter.close()
        spent = reporter.snapshot.phase_seconds
        share = self.job.training.steps / CHECKPOINT_EVERY
        return spent["step"] + spent["data_wait"] + spent["other"] + share * spent["checkpoint"]

    def peak_rss_mib(self) -> float:
        """Train the job in a separate process, as a rank, and return its peak memory."""
        run = self.root / "run"
        run.mkdir()
        gpu.train_as_rank(self.root / "job.yaml", self.root, "space", "job", run).check_returncode()
        snapshot = json.loads((run / "rank-0.json").read_text())
        return float(snapshot["memory"]["rss_peak"]) / 2**20


def against_plain(root: Path, shape: Shape, repeats: int, threads: int) -> dict[str, Any]:
    """Measure one shape; speeds are medians over the repeats, the ratio is the median of the pairs."""
    root.mkdir()
    trainer = Trainer(root, shape, threads)
    training = trainer.job.training
    batch, length, steps = shape.samples, shape.length, shape.steps
    plain = PlainLoop(training.model, trainer.data.vocabulary.size, batch, length)
    tokens = steps * batch * length
    mine, theirs = [], []
    for repeat in range(repeats + 1):
        ours = trainer.seconds()  # also sets the number of threads for both
        plainly = plain.seconds(steps)
        if repeat:  # the first pair is a warm-up
            mine.append(tokens / ours)
            theirs.append(tokens / plainly)
    speed = statistics.median(mine)
    return {
        "samples_per_second": round(speed / length, 1),
        "tokens_per_second": round(speed),
        "plain_tokens_per_second": round(statistics.median(theirs)),
        "ratio_to_plain": round(statistics.median(a / b for a, b in zip(mine, theirs, strict=True)), 4),
        "ratios": [round(a / b, 4) for a, b in zip(mine, theirs, strict=True)],
        "peak_rss_mib": round(trainer.peak_rss_mib(), 1),
        "parameters": sum(parameter.numel() for parameter in plain.model.parameters()),
        "vocabulary": trainer.data.vocabulary.size,
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "configuration": training.model_dump(mode="json", by_alias=True),
    }


def measure(name: str, root: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run one phase in an empty directory."""
    smallest, repeats = options.smallest, 1 if options.smallest else options.repeats
    if name in SHAPES:
        return against_plain(root, SMALLEST if smallest else SHAPES[name], repeats, options.threads)
    if name == "checkpoint":
        return measure_checkpoint(root, repeats, checkpoint.SMALLEST if smallest else checkpoint.MODEL)
    return gpu.measure(root, gpu.SMALLEST if smallest else gpu.SHAPES)


def main() -> None:
    """Measure and write the result."""
    parser = result.parser("trainer", __doc__)
    parser.add_argument("--repeats", type=int, default=9, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all")
    parser.add_argument(
        "--only",
        choices=PHASES,
        action="append",
        help="one phase; repeatable (default: all that can run here)",
    )
    options = parser.parse_args()
    possible = [name for name in PHASES if name != "gpu" or options.smallest or torch.cuda.is_available()]
    results = result.start(options)
    for name in options.only or possible:
        with (
            tempfile.TemporaryDirectory() as place,
            (Path(place) / "log").open("w") as log,
            contextlib.redirect_stderr(log),  # log lines cost as much as in a pod
        ):
            logs.setup({"AURL_LOG_FORMAT": "json"})
            results[name] = measure(name, Path(place) / name, options)
        result.write(results, options)
        shown = {key: value for key, value in results[name].items() if key != "configuration"}
        print(json.dumps({name: shown}, indent=2), flush=True)


if __name__ == "__main__":
    main()
