"""The trainer on a GPU: published sizes in bf16, compiled, with checkpoints (`gpu` in trainer.json)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aurl_dev.cluster.paths import CHECKOUT
from aurl_dev.melodies import write_music

DATASET: dict[str, Any] = {
    "source": {"directory": {"path": "midi"}},
    "split": {"validationFraction": 0.05, "testFraction": 0.0},
}


@dataclass(frozen=True)
class GpuShape:
    """A model and its batch of `samples` × `length` tokens."""

    model: dict[str, int]
    length: int
    samples: int
    steps: int = 120
    settings: tuple[tuple[str, Any], ...] = (("device", "cuda"), ("precision", "bf16"), ("compile", True))

    def training(self) -> dict[str, Any]:
        """Return the training section of the job."""
        return {
            "steps": self.steps,
            **dict(self.settings),
            "contextLength": self.length,
            "model": self.model,
            "batch": {"globalBatchSize": self.samples, "microBatchSize": self.samples},
            "checkpoint": {"everySteps": self.steps // 2, "keepLast": 1},
            "evaluation": {"everySteps": 0, "batches": 1},
            "logging": {"everySteps": self.steps // 6, "tensorboard": False},
            "sample": {"count": 0},
        }


SHAPES = {
    "125m_1024": GpuShape({"dModel": 768, "layers": 12, "heads": 12}, 1024, 64),
    "350m_2048": GpuShape({"dModel": 1024, "layers": 24, "heads": 16}, 2048, 16),
    "music_2048": GpuShape({"dModel": 512, "layers": 8, "heads": 8}, 2048, 64),
}
SMALLEST = {
    "smallest": GpuShape(
        {"dModel": 16, "layers": 1, "heads": 2}, 32, 2, 6, (("device", "cpu"), ("threads", 1))
    )
}
"""On a CPU: everything but the device, bf16 and compilation. There MFU and device memory do not exist."""


def measure(root: Path, shapes: dict[str, GpuShape]) -> dict[str, Any]:
    """Train each shape in a separate process, as a rank, and collect what it reported."""
    write_music(root / "midi", pieces=200)
    return {name: _train(root / name, root, shape) for name, shape in shapes.items()}


def train_as_rank(
    job: Path, volume: Path, namespace: str, name: str, run: Path
) -> subprocess.CompletedProcess[str]:
    """Train a job file in a separate process, as a rank with its run directory in `run`."""
    environment = {
        "PYTHONPATH": str(CHECKOUT / "trainer"),
        "AURL_CONFIG": str(job),
        "AURL_VOLUME": str(volume),
        "AURL_JOB_NAMESPACE": namespace,
        "AURL_JOB_NAME": name,
        "AURL_RUN_DIR": str(run),
        "AURL_LOG_FORMAT": "json",
    }
    command = [sys.executable, "-m", "aurl_trainer.train"]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


def _train(place: Path, volume: Path, shape: GpuShape) -> dict[str, Any]:
    """Train a shape and return its figures; the speed is that of the median interval."""
    training = shape.training()
    run = place / "run"
    run.mkdir(parents=True)
    (place / "job.yaml").write_text(yaml.safe_dump({"dataset": DATASET, "training": training}))
    done = train_as_rank(place / "job.yaml", volume, "bench", place.name, run)
    if done.returncode:
        return {"error": done.stderr[-2000:]}
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    steps = [line for line in lines if line["message"] == "step"][2:]  # without the warm-up intervals
    end = next(line for line in lines if line["message"] == "training ended")
    typical = sorted(steps, key=lambda line: line["tokens_per_second"])[(len(steps) - 1) // 2]
    memory = json.loads((run / "rank-0.json").read_text())["memory"]
    return {
        "tokens_per_second": round(typical["tokens_per_second"]),
        "mfu": round(typical["mfu"], 4) if typical.get("mfu") is not None else None,
        "device_peak_mib": round(memory["device_peak"] / 2**20) if "device_peak" in memory else None,
        "recompiled_graphs": end.get("recompiled_graphs"),  # absent unless compiled
        "configuration": training,
    }
