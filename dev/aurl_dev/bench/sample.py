"""`make bench-sample`: tokens per second of sampling on one CPU thread, into build/bench/sample.json."""

from __future__ import annotations

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
    """Return the best of several runs; each samples `batch` pieces of `tokens` tokens under the grammar."""
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
    parser = result.parser("sample", __doc__)
    parser.add_argument("--tokens", type=int, default=512, help="length of each piece")
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    options = parser.parse_args()
    tokens, repeats = (16, 1) if options.smallest else (options.tokens, options.repeats)
    torch.set_num_threads(1)
    vocabulary = Vocabulary(TokenizerConfig())
    model = Transformer(SHAPE, vocabulary.size)
    model.initialise(0)
    results = result.start(options) | {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "shape": SHAPE.model_dump(mode="json", by_alias=True),
        "vocabulary": vocabulary.size,
        "tokens": tokens,
        "threads": 1,
        "runs": [measure(model, vocabulary, batch, tokens, repeats) for batch in (1, 16)],
    }
    result.show(results, options)


if __name__ == "__main__":
    main()
