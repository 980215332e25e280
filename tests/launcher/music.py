"""A few scales as MIDI files, and a job that trains on them within seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mido

JOB: dict[str, Any] = {
    "apiVersion": "aurl.ai/v1alpha1",
    "kind": "AurlTrainingJob",
    "metadata": {"name": "scales"},
    "spec": {
        "numNodes": 2,
        "dataset": {"source": {"directory": {"path": "midi"}}, "workers": 1},
        "training": {
            "steps": 100_000,
            "contextLength": 32,
            "threads": 1,
            "model": {"dModel": 16, "layers": 1, "heads": 2},
            "batch": {"globalBatchSize": 4, "microBatchSize": 2},
            "schedule": {"warmupSteps": 2},
            "checkpoint": {"everySteps": 100_000},
            "evaluation": {"everySteps": 0, "batches": 1},
            "logging": {"everySteps": 1},
            "sample": {"count": 1, "maxTokens": 32},
        },
    },
}


def write_scales(folder: Path) -> None:
    """Write eight scales and a file that is not MIDI."""
    folder.mkdir(parents=True)
    for number in range(8):
        file = mido.MidiFile(ticks_per_beat=480)
        track = mido.MidiTrack()
        file.tracks.append(track)
        for step in range(120):
            pitch = 48 + (step * (number + 1)) % 24
            track.append(mido.Message("note_on", note=pitch, velocity=80, time=0))
            track.append(mido.Message("note_off", note=pitch, velocity=0, time=240))
        file.save(folder / f"scale-{number}.mid")
    (folder / "broken.mid").write_bytes(b"MThd, but not really")
