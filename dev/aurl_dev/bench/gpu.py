"""The trainer on a GPU: published sizes in bf16, compiled, with checkpoints; `gpu` in trainer.json."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from aurl_dev.cluster.paths import CHECKOUT
from aurl_dev.melodies import write_music

DATASET: dict[str, Any] = {
    "source": {"directory": {"path": "midi"}},
    "split": {"validationFraction": 0.05, "testFraction": 0.0},
}

SHAPES: dict[str, dict[str, Any]] = {
    "125m_1024": {"model": {"dModel": 768, "layers": 12, "heads": 12}, "contextLength": 1024, "batch": 64},
    "350m_2048": {"model": {"dModel": 1024, "layers": 24, "heads": 16}, "contextLength": 2048, "batch": 16},
    "music_2048": {"model": {"dModel": 512, "layers": 8, "heads": 8}, "contextLength": 2048, "batch": 64},
}

STEPS, CHECKPOINT_EVERY = 120, 60


def measure(root: Path) -> dict[str, Any]:
    """Train each shape in a process of its own, as a rank does, and read what it reported."""
    write_music(root / "midi", pieces=200)
    return {name: _train(root / name, root, shape) for name, shape in SHAPES.items()}


def _train(place: Path, volume: Path, shape: dict[str, Any]) -> dict[str, Any]:
    training = {
        "steps": STEPS,
        "device": "cuda",
        "precision": "bf16",
        "compile": True,
        "contextLength": shape["contextLength"],
        "model": shape["model"],
        "batch": {"globalBatchSize": shape["batch"], "microBatchSize": shape["batch"]},
        "checkpoint": {"everySteps": CHECKPOINT_EVERY, "keepLast": 1},
        "evaluation": {"everySteps": 0, "batches": 1},
        "logging": {"everySteps": 20, "tensorboard": False},
        "sample": {"count": 0},
    }
    run = place / "run"
    run.mkdir(parents=True)
    (place / "job.yaml").write_text(yaml.safe_dump({"dataset": DATASET, "training": training}))
    environment = {
        "PYTHONPATH": str(CHECKOUT / "trainer"),
        "AURL_CONFIG": str(place / "job.yaml"),
        "AURL_VOLUME": str(volume),
        "AURL_JOB_NAMESPACE": "bench",
        "AURL_JOB_NAME": place.name,
        "AURL_RUN_DIR": str(run),
        "AURL_LOG_FORMAT": "json",
    }
    command = [sys.executable, "-m", "aurl_trainer.train"]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        return {"error": done.stderr[-2000:]}
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    steps = [line for line in lines if line["message"] == "step"][2:]  # the first intervals warm up
    best = max(steps, key=lambda line: line["tokens_per_second"])
    job = json.loads((run / "rank-0.json").read_text())
    return {
        "tokens_per_second": round(best["tokens_per_second"]),
        "mfu": round(best["mfu"], 4),
        "device_peak_mib": round(job["memory"]["device_peak"] / 2**20),
        "recompiled_graphs": next(line for line in lines if line["message"] == "training ended")[
            "recompiled_graphs"
        ],
        "configuration": training,
    }
