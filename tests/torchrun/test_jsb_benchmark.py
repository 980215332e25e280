"""The chorale benchmark on a raster of this test's own making: from the JSON file to the report."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from aurl_dev.bench.chorale_floor import informed_five_gram_nats
from aurl_dev.bench.jsb import PUBLISHED
from torchrun.jobs import TRAINER

SMALL = [
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
]


def write_rasters(path: Path) -> int:
    """Write pieces of four voices that move by seconds each quarter; return the tokens of the test pieces."""
    source = random.Random(0)

    def piece() -> list[list[int]]:
        quarters = [[72, 67, 60, 48]]
        for _ in range(11):
            quarters.append([pitch + source.choice((-1, 0, 2)) for pitch in quarters[-1]])
        return [step for step in quarters for _ in range(4)]

    pieces = {"train": [piece() for _ in range(8)], "valid": [piece()], "test": [piece(), piece()]}
    path.write_text(json.dumps(pieces))
    return sum(4 * len(steps) + 1 for steps in pieces["test"])


def run(data: Path, output: Path, changes: list[str]) -> dict[str, Any]:
    """Run the benchmark in a process of its own: its launcher reaps all children, those of others too."""
    checkout = TRAINER.parent
    script = "import json, sys; from pathlib import Path; from aurl_dev.bench.jsb import run; "
    script += "print(json.dumps(run(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])))"
    done = subprocess.run(
        [sys.executable, "-c", script, str(data), str(output), *changes],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": f"{checkout / 'dev'}:{TRAINER}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_from_rasters_to_the_report(tmp_path: Path) -> None:
    data = tmp_path / "rasters.json"
    tokens = write_rasters(data)
    report = run(data, tmp_path / "out", SMALL)
    assert report["test_tokens"] == tokens  # every note and the end of each piece
    assert (report["steps"], report["device"], report["published"]) == (3, "cpu", PUBLISHED)
    assert 0 < report["test_nll"] < 1.1 * math.log(91)
    # Notes change on the beat alone: who knows where the beat is must be surprised less often.
    assert 0 < report["informed_five_gram_nll"] < report["five_gram_nll"]


def test_who_knows_voice_and_beat_pays_for_the_beats_alone(tmp_path: Path) -> None:
    data = tmp_path / "rasters.json"
    write_rasters(data)
    # Three choices for each voice at each of the beats after the first, and nothing between them.
    choices = math.log(3) * 11 / 48
    assert choices < informed_five_gram_nats(data, 91) < choices + 0.75
