"""`make bench-sample`: tokens per second of sampling on one CPU thread, into build/bench/sample.json."""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch

from aurl_dev.bench import result
from aurl_dev.bench.stopwatch import best_of
from aurl_trainer.data.config import TokenizerConfig
from aurl_trainer.data.vocabulary import Vocabulary
from aurl_trainer.model.config import ModelConfig
from aurl_trainer.model.transformer import Transformer
from aurl_trainer.sampling.config import SamplingConfig
from aurl_trainer.sampling.generate import generate

SHAPE = ModelConfig(d_model=256, layers=6, heads=8)
CONTEXT = 1024


def measure(
    model: Transformer, vocabulary: Vocabulary, batch: int, tokens: int, repeats: int
) -> dict[str, Any]:
    """The best of some runs; each samples `batch` pieces of `tokens` tokens under the grammar."""
    config = SamplingConfig(count=batch, batch_size=batch, max_tokens=tokens)

    def run() -> int:
        return sum(map(len, generate(model, vocabulary, config, CONTEXT)))

    made, seconds = best_of(run, repeats)
    return {
        "batch": batch,
        "tokens_per_second": round(made / seconds.wall, 1),
        "tokens_per_cpu_second": round(made / seconds.cpu, 1),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    vocabulary = Vocabulary(TokenizerConfig())
    model = Transformer(SHAPE, vocabulary.size)
    model.initialise(0)
    results: dict[str, Any] = {
        "machine": result.machine(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "shape": SHAPE.model_dump(mode="json", by_alias=True),
        "vocabulary": vocabulary.size,
        "tokens": options.tokens,
        "threads": 1,
        "runs": [measure(model, vocabulary, batch, options.tokens, options.repeats) for batch in (1, 16)],
    }
    print(json.dumps(results, indent=2))
    print(f"written to {result.write('sample', results)}")


if __name__ == "__main__":
    main()
