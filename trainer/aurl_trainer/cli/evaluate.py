"""`aurl-trainer evaluate`: a report on a model, as a table or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from aurl_trainer.cli.sample import choose_model
from aurl_trainer.data.shards import Dataset, SplitName
from aurl_trainer.data.tokenizer import decode_pieces
from aurl_trainer.data.vocabulary import Vocabulary
from aurl_trainer.errors import UserError
from aurl_trainer.evaluation.report import evaluate, table, training_ngrams
from aurl_trainer.sampling.config import SamplingConfig


def run(options: argparse.Namespace) -> int:
    """Evaluate a checkpoint or export on the dataset it was trained on, or on another one."""
    saved, home = choose_model(options)
    dataset = Dataset.open(options.dataset or home / "dataset" / saved.identity["dataset"])
    if dataset.vocabulary().fingerprint != saved.vocabulary.fingerprint:
        raise UserError(
            f"The dataset {dataset.path} has a different vocabulary than the model; "
            "pass one that was prepared with the same dataset.tokenizer."
        )
    split = _split(dataset, options.split)
    if dataset.fingerprint != saved.identity["dataset"]:
        _warn_of_overlap(home / "dataset" / saved.identity["dataset"], dataset, split, saved.vocabulary)
    training = saved.configuration["training"]
    context = int(training["contextLength"])
    if options.stride is not None and not 0 < options.stride <= context:
        raise UserError(f"--stride {options.stride}: must be from 1 to the context length {context}.")
    sampling = SamplingConfig.model_validate(training["sample"] | {"count": max(0, options.samples)})
    report = {"job": saved.job, "step": saved.step, "weights": saved.kind} | evaluate(
        saved.model(), saved.vocabulary, dataset, sampling, context, split=split, stride=options.stride
    )
    text = json.dumps(report, indent=2)
    if options.output is not None:
        output: Path = options.output
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(text + "\n")
        except OSError as error:
            raise UserError(f"--output {output}: the report cannot be written: {error.strerror}.") from None
    print(text if options.json else table(report))
    return 0


def _warn_of_overlap(trained_on: Path, dataset: Dataset, split: SplitName, vocabulary: Vocabulary) -> None:
    """Warn on stderr if the model was trained on pieces of the split, as happens with public benchmarks."""
    try:
        known = training_ngrams(Dataset.open(trained_on).split("train"), vocabulary)
    except UserError:
        print(
            f"Cannot check whether the model was trained on pieces of the {split} split: its dataset "
            f"{trained_on} is not here.",
            file=sys.stderr,
        )
        return
    held_out = dataset.split(split)
    if similar := known.similar(decode_pieces(held_out, vocabulary)):
        of = f"{similar} of the {len(held_out.offsets) - 1} pieces of the {split} split"
        print(
            f"The model was trained on copies or versions of {of}: do not judge it by them.",
            file=sys.stderr,
        )


def _split(dataset: Dataset, wanted: SplitName | None) -> SplitName:
    tokens = dataset.manifest["summary"]["tokens"]
    order: tuple[SplitName, ...] = (wanted,) if wanted else ("test", "validation")
    for name in order:
        if tokens[name]:
            return name
    raise UserError(
        f"The {' or '.join(order)} split of the dataset {dataset.path} is empty; "
        "set dataset.split.validationFraction or pass another dataset with --dataset."
    )
