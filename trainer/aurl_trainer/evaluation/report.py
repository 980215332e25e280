"""The evaluation report of a model, as a dictionary for JSON and as a table."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch

from aurl_trainer.data.grammar import first_fault
from aurl_trainer.data.loader import Loader
from aurl_trainer.data.ngrams import NgramIndex
from aurl_trainer.data.shards import Dataset, Split, SplitName
from aurl_trainer.data.tokenizer import decode, decode_pieces
from aurl_trainer.data.vocabulary import PAD, Vocabulary
from aurl_trainer.distributed.runtime import Distributed, Layout
from aurl_trainer.evaluation.distance import compared
from aurl_trainer.evaluation.likelihood import likelihood, seconds_of
from aurl_trainer.evaluation.ngram import ngram_nats
from aurl_trainer.model.transformer import Transformer
from aurl_trainer.model.vae import VAE
from aurl_trainer.objective.latent_evaluation import evaluate_latents
from aurl_trainer.sampling.config import SamplingConfig
from aurl_trainer.sampling.generate import LanguageModel, generate
from aurl_trainer.sampling.latent import sampler

BATCH_SIZE: Final = 8
"""Samples per batch of an autoencoder; each is also decoded from the previous sample's latents."""

MOST_PIECES: Final = 500
"""Maximum number of pieces of a corpus whose distributions are compared, spread evenly over it."""


def evaluate(
    model: Transformer | VAE,
    vocabulary: Vocabulary,
    dataset: Dataset,
    sampling: SamplingConfig,
    context_length: int,
    *,
    split: SplitName,
    stride: int | None = None,
) -> dict[str, Any]:
    """Evaluate a model on a held-out split of `dataset`; compare `sampling.count` samples with the corpus.

    For an autoencoder, the likelihood is a lower bound, and that by kind of token is given the latents.
    """
    train, held_out = dataset.split("train"), dataset.split(split)
    loader = Loader(dataset.path, split, context_length, 0)
    found = likelihood(model, loader, vocabulary, context_length, stride=stride)
    latents: dict[str, float] = {}
    if isinstance(model, VAE):
        latents = _latents(model, loader, context_length)
        found = replace(found, nats=latents.pop("loss") * found.tokens)
    music = list(decode_pieces(held_out, vocabulary))
    report: dict[str, Any] = {
        "split": split,
        "pieces": len(music),
        "likelihood": found.report(sum(m.notes for m in music), sum(map(seconds_of, music))),
        "fiveGram": {"nllPerToken": ngram_nats(train, held_out, vocabulary.size)},
    }
    if latents:
        report["latents"] = latents
    if sampling.count:
        report["samples"] = evaluate_samples(
            sampler(model, sampling.seed),
            vocabulary,
            train,
            held_out,
            training_ngrams(train, vocabulary),
            sampling,
            context_length,
        )
    return report


def training_ngrams(train: Split, vocabulary: Vocabulary) -> NgramIndex:
    """Return the 12-grams of the whole training split: about a second per million tokens."""
    return NgramIndex(decode_pieces(train, vocabulary))


def evaluate_samples(
    model: LanguageModel,
    vocabulary: Vocabulary,
    train: Split,
    held_out: Split,
    ngrams: NgramIndex,
    sampling: SamplingConfig,
    context_length: int,
) -> dict[str, Any]:
    """Sample `sampling.count` pieces and compare them with the corpus; sample again without the grammar.

    `ngrams` are those of the whole training split, in which copies are looked up.
    """
    corpus = list(decode_pieces(train, vocabulary, MOST_PIECES))
    unseen = list(decode_pieces(held_out, vocabulary, MOST_PIECES))
    samples = [decode(piece, vocabulary) for piece in generate(model, vocabulary, sampling, context_length)]
    return {
        "pieces": len(samples),
        "notes": sum(piece.notes for piece in samples),
        "distributions": compared(samples, corpus),
        "memorised": ngrams.share(samples),
        "memorisedFloor": ngrams.share(unseen),
        "grammar": grammar_validity(model, vocabulary, sampling, context_length),
    }


def grammar_validity(
    model: LanguageModel, vocabulary: Vocabulary, sampling: SamplingConfig, context_length: int
) -> dict[str, float]:
    """Return the shares of valid pieces and tokens when the grammar is not enforced.

    Valid tokens are those before the first error of each piece.
    """
    free = sampling.model_copy(update={"grammar": False})
    pieces = generate(model, vocabulary, free, context_length)
    faults = [first_fault(piece[piece != PAD], vocabulary) for piece in pieces]
    valid = [len(piece) if fault < 0 else fault for piece, fault in zip(pieces, faults, strict=True)]
    return {
        "validPieces": float(np.mean([fault < 0 for fault in faults])),
        "validTokens": sum(valid) / sum(map(len, pieces)),
    }


def _latents(model: VAE, loader: Loader, context_length: int) -> dict[str, float]:
    device = next(model.parameters()).device
    batches = (
        (torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device))
        for inputs, targets in loader.validation_batches(context_length, BATCH_SIZE)
    )
    return evaluate_latents(model, batches, Distributed(Layout(), device), nullcontext(), seed=0)


def table(report: dict[str, Any]) -> str:
    """Return the report as text."""
    found, floor = report["likelihood"], report["fiveGram"]["nllPerToken"]
    per_second = f"{found['bitsPerSecond']:.2f}" if found["bitsPerSecond"] is not None else "-"
    lines = [
        f"{report['job']}, step {report['step']} ({report['weights']} weights), "
        f"{report['pieces']} pieces of the {report['split']} split",
        "",
        f"nats per token        {found['nllPerToken']:10.4f}     5-gram floor {floor:.4f}",
        f"bits per note         {found['bitsPerNote']:10.3f}",
        f"bits per second       {per_second:>10}",
        "nats per token of     "
        + "  ".join(f"{kind} {nats:.3f}" for kind, nats in found["nllPerTokenByKind"].items()),
    ]
    for name, value in report.get("latents", {}).items():
        lines.append(f"{name:22}{value:10.4f}")
    samples = report.get("samples")
    if samples is None:
        return "\n".join(lines)
    lines += ["", f"{samples['pieces']} samples      overlap   corpus itself   divergence   corpus itself"]
    for name, values in samples["distributions"].items():
        lines.append(
            f"{name:22}{values['overlap']:8.3f}{values['overlapFloor']:16.3f}"
            f"{values['jensenShannon']:13.4f}{values['jensenShannonFloor']:16.4f}"
        )
    lines += [
        "",
        f"memorised 12-grams    {_share(samples['memorised'])}, "
        f"of held-out music {_share(samples['memorisedFloor'])}",
        f"valid without mask    {_share(samples['grammar']['validPieces'])} of the pieces, "
        f"{_share(samples['grammar']['validTokens'])} of the tokens",
    ]
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "      -" if value is None else f"{100 * value:6.2f} %"
