"""Sample pieces from a model into files, for jobs and for `aurl-trainer sample`."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aurl_trainer.data.midi import write_midi
from aurl_trainer.data.music import Ints
from aurl_trainer.data.tokenizer import decode
from aurl_trainer.data.vocabulary import Vocabulary
from aurl_trainer.sampling.config import SamplingConfig
from aurl_trainer.sampling.generate import LanguageModel, generate
from aurl_trainer.sampling.pianoroll import draw_piano_roll

log = logging.getLogger("aurl_trainer.sampling")


@dataclass(frozen=True)
class SampleFile:
    """One sampled piece on disk."""

    midi: Path
    picture: Path
    tokens: int
    notes: int


def sample_to_files(
    model: LanguageModel,
    vocabulary: Vocabulary,
    config: SamplingConfig,
    out_dir: Path,
    *,
    context_length: int,
    title: str,
    origin: Mapping[str, Any],
    prompt: Ints | None = None,
) -> list[SampleFile]:
    """Write `sample-N.mid` and `sample-N.png` for each piece, replacing existing files.

    `title` is the heading of the pictures; `origin` (job, step …) is added to the settings and the seed, as
    JSON in the first text event of the MIDI file. Raises OSError if the directory is not writable.
    """
    pieces = generate(model, vocabulary, config, context_length, prompt=prompt)
    out_dir.mkdir(parents=True, exist_ok=True)
    settings = config.model_dump(mode="json", by_alias=True, exclude={"count", "batch_size", "every_steps"})
    files = []
    for number, tokens in enumerate(pieces):
        music = decode(tokens, vocabulary)
        midi, picture = out_dir / f"sample-{number}.mid", out_dir / f"sample-{number}.png"
        about = {"generator": "aurl-trainer", **origin, **settings, "piece": number}
        _replace(midi, write_midi(music, [json.dumps(about, sort_keys=True)]))
        _replace(picture, draw_piano_roll(music, f"{title} · {number + 1}"))
        files.append(SampleFile(midi, picture, len(tokens), music.notes))
    log.info(
        "music sampled",
        extra={"directory": str(out_dir), "pieces": len(files), "notes": sum(file.notes for file in files)},
    )
    return files


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
