"""Rank 0 samples music from the current weights and evaluates it, while the other ranks wait.

Neither changes a weight or a random generator of the training. Every rank must make the calls: sharded
weights are gathered for them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic.alias_generators import to_snake
from torch import Tensor, nn

from aurl_trainer.config import JobFile
from aurl_trainer.data.ngrams import NgramIndex
from aurl_trainer.distributed.runtime import Distributed
from aurl_trainer.distributed.sharding import gather_into
from aurl_trainer.evaluation.report import evaluate_samples, training_ngrams
from aurl_trainer.loop.training_data import TrainingData
from aurl_trainer.model.transformer import Transformer
from aurl_trainer.monitor.snapshot import write_json
from aurl_trainer.optim.ema import WeightAverage
from aurl_trainer.sampling.generate import LanguageModel
from aurl_trainer.sampling.latent import sampler

log = logging.getLogger("aurl_trainer.train")


@dataclass(frozen=True)
class JobSampler:
    """Samples from the model, or from `average` if there is one."""

    job: JobFile
    job_dir: Path
    data: TrainingData
    model: nn.Module
    parameters: Mapping[str, Tensor]
    average: WeightAverage | None
    distributed: Distributed

    def sample(self, step: int) -> None:
        """Write `sample.count` pieces to `samples/step-…` on the volume. Raises OSError if it is full."""
        config = self.job.training.sample
        if not config.count:
            return
        with self._writer() as writer:
            if writer is None:
                return
            # It also draws pictures, whose imports take half a second and 40 MB: only when needed.
            from aurl_trainer.sampling.api import sample_to_files

            name = self.job_dir.name
            sample_to_files(
                writer,
                self.data.vocabulary,
                config,
                self.job_dir / "samples" / f"step-{step:08d}",
                context_length=self.job.training.context_length,
                title=f"{name}, step {step}",
                origin={"job": name, "step": step, "dataset": self.data.dataset.fingerprint},
            )

    def judge(self, step: int) -> dict[str, float]:
        """Compare sampled music with the corpus, and write the whole report to `evaluation/step-….json`.

        Returns the measures by their public names on rank 0, and {} elsewhere.
        """
        training = self.job.training
        sampling = training.sample.model_copy(update={"count": training.evaluation.music.samples})
        with self._writer() as writer:
            if writer is None:
                return {}
            train, held_out = (self.data.dataset.split(name) for name in ("train", "validation"))
            report = evaluate_samples(
                writer,
                self.data.vocabulary,
                train,
                held_out,
                self._ngrams,
                sampling,
                training.context_length,
            )
        path = self.job_dir / "evaluation" / f"step-{step:08d}.json"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"step": step} | report)
        except OSError as error:  # a full volume does not stop training
            log.error("the report cannot be written", extra={"step": step, "reason": str(error)})
        return measures(report)

    @cached_property
    def _ngrams(self) -> NgramIndex:
        return training_ngrams(self.data.dataset.split("train"), self.data.vocabulary)

    @contextmanager
    def _writer(self) -> Iterator[LanguageModel | None]:
        """Yield what to sample from on rank 0, and None elsewhere."""
        model, average = self.model, self.average
        if self.distributed.sharded:
            assert isinstance(model, Transformer)  # the only kind that the configuration shards
            weights = self.parameters if average is None else average.average
            model = whole_model(model, weights, first=self.distributed.rank == 0)
            average = None
        if self.distributed.rank != 0:
            yield None
            return
        with average.in_place() if average is not None else nullcontext():
            yield sampler(model, self.job.training.sample.seed)


def whole_model(model: Transformer, weights: Mapping[str, Tensor], *, first: bool) -> Transformer:
    """Return a model with all of `weights` on rank 0; on the host, as a device may be too small."""
    if not first:
        gather_into(None, weights)
        return model
    whole = Transformer(model.config, model.vocabulary_size)
    gather_into(dict(whole.named_parameters()), weights)
    return whole


def measures(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a report as metrics: overlaps and their floor, copies, grammar."""
    features = report["distributions"]
    found = {f"overlap_{to_snake(name)}": values["overlap"] for name, values in features.items()}
    if features:
        for name, key in (("overlap", "overlap"), ("overlap_floor", "overlapFloor")):
            found[name] = sum(values[key] for values in features.values()) / len(features)
    copies = {"memorised": report["memorised"], "memorised_floor": report["memorisedFloor"]}
    found |= {name: share for name, share in copies.items() if share is not None}
    grammar = report["grammar"]
    return found | {"valid_pieces": grammar["validPieces"], "valid_tokens": grammar["validTokens"]}
