"""`make bench-jsb`: the chorale benchmark from a job file, into build/bench/jsb.json.

The data is the JSON file of the public dataset with separate voices (Jsb16thSeparated.json of the
JSB-Chorales-dataset: 229, 76 and 77 pieces). The checkout does not contain it; pass its path.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from aurl_dev.bench import result
from aurl_dev.bench.chorale_floor import informed_five_gram_nats
from aurl_trainer.checkpoint.manager import CheckpointManager
from aurl_trainer.cli.jobfile import read_job
from aurl_trainer.cli.main import run as aurl_trainer
from aurl_trainer.data.loader import Loader
from aurl_trainer.data.shards import Dataset
from aurl_trainer.evaluation.likelihood import likelihood
from aurl_trainer.evaluation.ngram import ngram_nats
from aurl_trainer.export.saved_model import from_checkpoint
from aurl_trainer.system.device import choose_device

JOB = Path("configs/training/jsb.yaml")
SMALLEST = (
    "training.steps=3",
    "training.contextLength=64",
    "training.threads=1",
    "training.model={dModel: 16, layers: 1, heads: 2}",
    "training.batch={globalBatchSize: 4, microBatchSize: 4}",
    "training.curriculum={kind: none}",
    "training.schedule={warmupSteps: 1}",
    "training.checkpoint={everySteps: 3}",
    "training.evaluation={everySteps: 0}",
    "dataset.workers=1",
)
# Nats per token on the test split, without padding (arXiv 2509.10534).
PUBLISHED = {"NoPE": 1.163, "RoPE, 6 layers of 256": 0.5081, "PoPE": 0.4889}


def run(data: Path, output: Path, changes: list[str]) -> dict[str, Any]:
    """Train and evaluate; raises SystemExit if the training fails."""
    changes = [f"dataset.source.raster.path={data.absolute()}", *changes]
    training = read_job(JOB, changes).config.training
    shutil.rmtree(output, ignore_errors=True)
    began = time.perf_counter()
    overrides = [word for change in changes for word in ("--set", change)]
    code = aurl_trainer(["train", "--job", str(JOB), "--output", str(output), *overrides])
    if code:
        raise SystemExit(code)
    seconds = time.perf_counter() - began
    newest, _ = CheckpointManager(output / "checkpoints").latest()
    assert newest is not None  # a training that succeeds saves its last step
    saved = from_checkpoint(newest)
    dataset = Dataset.open(output / "dataset" / saved.identity["dataset"])
    device = choose_device(training.device, 0, 1)
    model = saved.model().to(device)
    nll = {}
    for split in ("validation", "test"):
        loader = Loader(dataset.path, split, training.context_length, 0)
        stride = training.context_length // 2
        nll[split] = likelihood(model, loader, saved.vocabulary, training.context_length, stride=stride)
    floor = ngram_nats(dataset.split("train"), dataset.split("test"), saved.vocabulary.size)
    return {
        "test_nll": round(nll["test"].per_token, 5),
        "validation_nll": round(nll["validation"].per_token, 5),
        "five_gram_nll": round(floor, 5),
        "informed_five_gram_nll": round(informed_five_gram_nats(data, saved.vocabulary.size), 5),
        "test_tokens": nll["test"].tokens,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": training.steps,
        "seconds": round(seconds, 1),
        "device": str(device),
        "weights": saved.kind,
        "published": PUBLISHED,
        "configuration": training.model_dump(mode="json", by_alias=True),
    }


def main() -> None:
    """Measure and write the result."""
    parser = result.parser("jsb", __doc__)
    parser.add_argument("--data", type=Path, required=True, help="Jsb16thSeparated.json")
    parser.add_argument(
        "--job-dir",
        type=Path,
        default=result.FOLDER / "jsb",
        help="directory to train in (default: %(default)s)",
    )
    parser.add_argument(
        "--set", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="change the job"
    )
    options = parser.parse_args()
    changes = [*(SMALLEST if options.smallest else ()), *options.changes]
    result.show(result.start(options) | run(options.data, options.job_dir, changes), options)


if __name__ == "__main__":
    main()
