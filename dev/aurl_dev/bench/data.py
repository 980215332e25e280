"""`make bench-data`: preparation and loading of a generated corpus, into build/bench/data.json.

Files have about 1,700 notes, as in POP909: three tracks, velocities, tempo and metre changes.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from symusic import Score

from aurl_dev.bench import result
from aurl_dev.bench.process import memory_mib
from aurl_dev.bench.stopwatch import best_of
from aurl_trainer.data.config import AugmentationConfig, TokenizerConfig
from aurl_trainer.data.loader import Loader
from aurl_trainer.data.midi import read_with_mido, read_with_symusic, write_midi
from aurl_trainer.data.music import Music
from aurl_trainer.data.shards import TOKEN_TYPE
from aurl_trainer.data.tokenizer import encode
from aurl_trainer.data.vocabulary import Vocabulary

NOTES = 1700
PIECES = 500
"""Number of composed pieces; a larger corpus holds each in several keys."""
CONTEXT, BATCH = 2048, 16
AUGMENTED = AugmentationConfig(transpose_semitones=6, stretch=0.1, velocity=12)


def piece(seed: int) -> bytes:
    """Return a MIDI file of three tracks, different for each seed."""
    source = random.Random(seed)
    notes = []
    for track, share in enumerate((0.3, 0.2, 0.5)):
        time_, pitch = source.randrange(480), source.randrange(50, 80)
        for _ in range(round(NOTES * share)):
            pitch = min(100, max(30, pitch + source.randint(-5, 5)))
            end = time_ + source.choice((110, 230, 470))
            notes.append((time_, end, pitch, source.randint(40, 110), track))
            time_ += source.choice((0, 120, 120, 240, 480))
    tempi = [(beat * 1920, 500_000 + source.randrange(-50_000, 50_000)) for beat in range(0, 40, 8)]
    return write_midi(Music.from_rows(480, notes, [0, 0, 0], tempi, [(0, 4, 4)]))


def one_core(files: list[bytes], repeats: int) -> dict[str, Any]:
    """Convert bytes to tokens in one process, with symusic and with mido; the best of the repeats."""
    vocabulary = Vocabulary(TokenizerConfig())
    few = files[: max(1, len(files) // 20)]

    def fast() -> int:
        return sum(len(encode(read_with_symusic(file, "bench"), vocabulary).tokens) for file in files)

    def slow() -> int:
        return sum(len(encode(read_with_mido(file, "bench"), vocabulary).tokens) for file in few)

    tokens, mine = best_of(fast, repeats)
    _, theirs = best_of(slow, repeats)
    return {
        "files_per_second": round(len(files) / mine.wall, 1),
        "tokens_per_second": round(tokens / mine.wall),
        "files_per_cpu_second": round(len(files) / mine.cpu, 1),
        "tokens_per_cpu_second": round(tokens / mine.cpu),
        "mido_files_per_cpu_second": round(len(few) / theirs.cpu, 1),
        "ratio_to_mido": round((len(files) / mine.cpu) / (len(few) / theirs.cpu), 1),
        "notes_per_file": NOTES,
    }


def corpus(directory: Path, files: list[bytes], count: int) -> None:
    """Write `count` different files: each piece in several keys, which is faster than composing more."""
    directory.mkdir(parents=True)
    keys = -(-count // len(files))
    for number in range(count):
        score: Any = Score.from_midi(files[number // keys])
        for track in score.tracks:
            track.shift_pitch(number % keys, inplace=True)
        (directory / f"{number:06}.mid").write_bytes(score.dumps_midi())


def preparation(root: Path, count: int, workers: int, number: int = 0) -> dict[str, Any]:
    """Prepare `count` files in a separate process, to measure its peak memory."""
    words = [str(root), str(count), str(workers), str(number)]
    command = [sys.executable, "-m", "aurl_dev.bench.preparation", *words]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


def scaling(root: Path, count: int, workers: int, repeats: int) -> dict[str, Any]:
    """Alternate the same preparation with one worker and with several; medians, and the pairs' ratio."""
    pairs = [
        (preparation(root, count, 1, number), preparation(root, count, workers, number))
        for number in range(1, repeats + 1)
    ]
    rates = [[each["files_per_second"] for each in pair] for pair in pairs]
    return {
        "files": count,
        "workers": workers,
        "files_per_second_one_worker": statistics.median(one for one, _ in rates),
        "files_per_second": statistics.median(many for _, many in rates),
        "ratio_to_one_worker": round(statistics.median(many / one for one, many in rates), 2),
        "all_files_per_second": rates,
        "peak_rss_mib": max(many["peak_rss_mib"] for _, many in pairs),
        "peak_rss_mib_of_all_processes": max(many["peak_rss_mib_of_all_processes"] for _, many in pairs),
    }


def loading(dataset: Path, seconds: float) -> dict[str, Any]:
    """Return the tokens per second of one loader in one process."""
    found: dict[str, Any] = {}
    for name, augmentation in (("plain", None), ("augmented", AUGMENTED)):
        loader = Loader(dataset, "train", CONTEXT, 0, augmentation=augmentation)
        loader.batch(0, CONTEXT, BATCH)
        best, counter = 0.0, 0
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            began = time.perf_counter()
            for _ in range(20):
                loader.batch(counter, CONTEXT, BATCH)
                counter = loader.advance(counter, CONTEXT, BATCH)
            best = max(best, 20 * BATCH * CONTEXT / (time.perf_counter() - began))
        found[f"loader_tokens_per_second_{name}"] = round(best)
    found["shape"] = [BATCH, CONTEXT]
    return found


def streaming(root: Path, mib: int) -> dict[str, Any]:
    """Return the resident memory that reading a stream of `mib` MiB once adds to this process."""
    from aurl_trainer.data.shards import MAPPED_BYTES, Split

    path = root / "stream.bin"
    chunk = np.arange(2**19, dtype=TOKEN_TYPE).tobytes()
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(chunk)
    split = Split(path, np.array([0, mib * 2**19], np.int64))
    before = most = memory_mib("VmRSS")
    for begin in range(0, len(split.tokens) - CONTEXT, CONTEXT):
        split.tokens[begin : begin + CONTEXT].sum()
        split.count_reads(1, CONTEXT)
        if begin % (CONTEXT * 16) == 0:
            most = max(most, memory_mib("VmRSS"))
    return {
        "stream_mib": mib,
        "resident_mib_added": round(most - before, 1),
        "bound_mib": MAPPED_BYTES // 2**20,
    }


def main() -> None:
    """Measure and write the result."""
    parser = result.parser("data", __doc__)
    parser.add_argument("--files", type=int, default=4000, help="size of the corpus")
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--stream-mib", type=int, default=1024, help="length of the stream that is read")
    options = parser.parse_args()
    if options.smallest:
        options.files, options.repeats, options.stream_mib = 12, 1, 4
    results = result.start(options)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        counts = [options.files // 4, options.files]
        files = [piece(seed) for seed in range(min(options.files, PIECES))]
        for count in counts:
            corpus(root / f"midi/{count}", files, count)
        results["tokenizer"] = one_core(files[:200], options.repeats)
        results["preparation"] = [preparation(root, count, 1) for count in counts]
        cpus = os.cpu_count() or 1
        if cpus > 1:
            results["scaling"] = scaling(root, options.files, cpus, options.repeats)
        dataset = next((root / f"job-{options.files}-1-0/dataset").iterdir())
        results["loader"] = loading(dataset, 0.1 if options.smallest else 3.0)
        results["streaming"] = streaming(root, options.stream_mib)
    result.show(results, options)


if __name__ == "__main__":
    main()
