"""Prepare a dataset once: read all files in worker processes, drop broken ones and duplicates, split, commit.

The name of a dataset is a hash of everything it is made from: the content of the files, the tokenizer, the
split and the version of the encoding. A job that finds it complete on the volume uses it as it is; while no
file has another size or modification time, without hashing them again (see receipt.py). It is
written to `.tmp-…`, flushed, renamed and marked last, so a directory with a marker is complete even if a
writer dies at any point.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from aurl_trainer.data.assignment import Assign, assignments
from aurl_trainer.data.config import DatasetConfig, SplitConfig, TokenizerConfig
from aurl_trainer.data.errors import DatasetError
from aurl_trainer.data.music import Ints
from aurl_trainer.data.ngrams import SIMILAR, NgramIndex
from aurl_trainer.data.pieces import Pieces
from aurl_trainer.data.receipt import find_unchanged, write_receipt
from aurl_trainer.data.shards import (
    FORMAT,
    MANIFEST,
    MARKER,
    OFFSET_TYPE,
    REPORT,
    SPLITS,
    VOCABULARY,
    Dataset,
    Split,
    SplitName,
)
from aurl_trainer.data.sources import Source, open_source
from aurl_trainer.data.tokenizer import decode_pieces
from aurl_trainer.data.vocabulary import ENCODING_VERSION, Vocabulary
from aurl_trainer.data.workers import start_fork_server, tokenize_files
from aurl_trainer.system.cgroup import available_cpus
from aurl_trainer.system.durable import remove_tree, sync_directory, write_durably, write_files, write_marker

log = logging.getLogger("aurl_trainer.data")

ProgressCallback = Callable[[int, int, int], None]
ABANDONED_SECONDS: Final = 600
"""Age in seconds at which an unmodified `.tmp-…` is taken for that of a dead writer."""
NAMES_IN_SUMMARY: Final = 20
LEAK: Final = 0.05
"""Share of held-out pieces that may be similar to training pieces without a warning."""
COMPARED_TOKENS: Final = 2_000_000
"""Training tokens to compare held-out pieces with, in pieces spread evenly; takes about two seconds."""
COMPARED_PIECES: Final = 500
"""Pieces of each held-out split to compare."""
_NUMBER: Final = re.compile(r"\d+")


@dataclass(frozen=True)
class Prepared:
    """A complete dataset. `path` is absolute; `dropped_names` are the first few, report.json has all."""

    fingerprint: str
    path: Path
    files: int
    """Tokenised files of the source, without duplicates."""
    dropped: int
    """Files that are unreadable or have no usable notes."""
    dropped_names: list[str]
    duplicates: int
    train_tokens: int
    held_out: int
    """Held-out pieces that were compared with training pieces."""
    similar: int
    """Those of them that are copies or versions of training pieces."""

    @property
    def leak(self) -> str:
        """A warning if many held-out pieces are similar to training pieces, or the empty string."""
        if self.similar <= LEAK * self.held_out:
            return ""
        pieces = f"{self.similar} of {self.held_out} held-out pieces"
        return (
            f"{pieces} have at least {SIMILAR:.0%} of their 12-grams (interval and time) in "
            "common with training pieces; if these are copies or versions, the "
            "validation loss is too good: keep them together with dataset.split.groupPattern or "
            "dataset.split.table."
        )


def prepare(config: DatasetConfig, job_dir: Path, volume: Path, progress: ProgressCallback) -> Prepared:
    """Prepare the dataset of a job under `job_dir/dataset` unless it exists; safe to run concurrently.

    `progress(done, total, dropped)` counts files. Raises DatasetError if the source has no usable music, and
    OSError if the volume is not writable.
    """
    vocabulary = Vocabulary(config.tokenizer)
    source = open_source(config.source, volume, job_dir, vocabulary)
    assign = assignments(config.split, volume)
    total = len(source.files)
    progress(0, total, 0)
    workers = config.workers or available_cpus()
    root = job_dir / "dataset"
    listing = _fingerprint(config, source, assign, vocabulary, source.stamps())
    found = find_unchanged(root, listing)
    if found is not None:
        return _reused(found, total, progress)
    if not any(root.glob(f"*/{MARKER}")):
        start_fork_server()  # in parallel with hashing the files
    fingerprint = _fingerprint(config, source, assign, vocabulary, source.digests(workers))
    target = root / fingerprint
    found = _open_verified(target)
    if found is not None:
        write_receipt(found, listing)
        return _reused(found, total, progress)

    root.mkdir(parents=True, exist_ok=True)
    _sweep(root)
    temporary = root / f".tmp-{fingerprint}-{uuid.uuid4().hex[:8]}"
    temporary.mkdir()
    try:
        scratch = temporary / "tokens.scratch"
        made = _tokenize(source, assign, config.tokenizer, workers, scratch, progress)
        _write(temporary, made, scratch, config.split, source, vocabulary, fingerprint)
        _commit(temporary, target)
    finally:
        remove_tree(temporary)
    dataset = Dataset.open(target)
    write_receipt(dataset, listing)
    prepared = _summary(dataset)
    if prepared.leak:
        log.warning("held-out pieces resemble training pieces", extra={"reason": prepared.leak})
    log.info(
        "dataset prepared",
        extra={
            "fingerprint": fingerprint,
            "files": prepared.files,
            "dropped": prepared.dropped,
            "duplicates": prepared.duplicates,
            "train_tokens": prepared.train_tokens,
        },
    )
    return prepared


def _reused(dataset: Dataset, total: int, progress: ProgressCallback) -> Prepared:
    prepared = _summary(dataset)
    progress(total, total, prepared.dropped)
    log.info("dataset is already prepared", extra={"fingerprint": dataset.fingerprint})
    return prepared


def _fingerprint(
    config: DatasetConfig,
    source: Source,
    assign: Assign,
    vocabulary: Vocabulary,
    files: Iterable[tuple[str, str]],
) -> str:
    """Return a hash of everything the dataset is made from; `files` are name and state of each."""
    digest = hashlib.sha256()
    head = {
        "format": FORMAT,
        "encoding": ENCODING_VERSION,
        "vocabulary": vocabulary.fingerprint,
        "reader": source.reader_version,
        "split": config.split.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
    digest.update(json.dumps(head, sort_keys=True).encode())
    for name, content in files:
        digest.update(f"{name}\0{content}\n".encode())
        if config.split.table is not None:
            digest.update(f"{assign(name)}\n".encode())
    return digest.hexdigest()[:32]


def _open_verified(path: Path) -> Dataset | None:
    if not path.exists():
        return None
    try:
        dataset = Dataset.open(path)
        dataset.verify()
    except DatasetError as error:
        log.warning("damaged dataset, preparing it again", extra={"path": str(path), "reason": str(error)})
        (path / MARKER).unlink(missing_ok=True)
        sync_directory(path)
        remove_tree(path)
        return None
    return dataset


def _sweep(root: Path) -> None:
    """Remove the temporary directories of dead writers."""
    for path in root.glob(".tmp-*"):
        newest = max((entry.stat().st_mtime for entry in (path, *path.iterdir())), default=0.0)
        if time.time() - newest > ABANDONED_SECONDS:
            remove_tree(path)


@dataclass
class _Tokenized:
    """The source as tokens: pieces in a scratch file, and everything that was left out."""

    pieces: Pieces
    dropped: dict[str, str]
    """Reason by file name."""
    left_out: Counter[str]
    """Number of notes by reason."""


def _tokenize(
    source: Source,
    assign: Assign,
    config: TokenizerConfig,
    workers: int,
    scratch: Path,
    progress: ProgressCallback,
) -> _Tokenized:
    """Tokenise all files into `scratch`. Raises DatasetError if none can be used."""
    made = _Tokenized(Pieces(), {}, Counter())
    with scratch.open("wb") as file:
        outcomes = tokenize_files(source.files, config, workers)
        for index, (piece, outcome) in enumerate(outcomes):
            if outcome.reason:
                made.dropped[piece.name] = outcome.reason
            else:
                split, group = assign(piece.name)
                made.pieces.add(index, outcome.tokens, outcome.notes, piece.split or split, group)
                file.write(outcome.tokens)
                made.left_out.update(outcome.left_out)
            progress(index + 1, len(source.files), len(made.dropped))
    if not len(made.pieces):
        name, reason = next(iter(made.dropped.items()))
        raise DatasetError(
            f"{source.key}: none of the {len(made.dropped)} files {source.where} can be used "
            f"(the first, {name}: {reason}); put MIDI files there or correct the source."
        )
    return made


def _write(
    directory: Path,
    made: _Tokenized,
    scratch: Path,
    split_config: SplitConfig,
    source: Source,
    vocabulary: Vocabulary,
    fingerprint: str,
) -> None:
    """Split the pieces and write all files of the dataset but the marker; deletes `scratch`."""
    pieces, copy_of = made.pieces, made.pieces.copies()
    parts = pieces.split(split_config, copy_of)
    tokens = {split: int(pieces.sizes()[rows].sum()) for split, rows in parts.items()}
    report = _report(made, copy_of, parts, source) | {"tokens": tokens}
    with scratch.open("rb") as stream:
        contents: dict[str, Iterable[bytes | memoryview]] = {}
        for split, rows in parts.items():
            offsets = np.cumsum(np.append(0, pieces.sizes()[rows]))
            contents[f"{split}.bin"] = pieces.read(stream, rows)
            contents[f"{split}.index"] = [offsets.astype(OFFSET_TYPE).tobytes()]
        contents |= {VOCABULARY: [vocabulary.to_json().encode()], REPORT: [_json(report)]}
        files = write_files(directory, contents)
    scratch.unlink()
    compared = _compare(directory, parts, pieces, vocabulary)
    manifest = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "vocabulary": vocabulary.fingerprint,
        "files": files,
        "summary": {
            "files": report["tokenized"],
            "dropped": report["dropped"],
            "droppedNames": list(made.dropped)[:NAMES_IN_SUMMARY],
            "duplicates": len(copy_of),
            "tokens": tokens,
            "heldOut": compared,
        },
    }
    write_durably(directory / MANIFEST, [_json(manifest)])


def _compare(
    directory: Path, parts: dict[SplitName, Ints], pieces: Pieces, vocabulary: Vocabulary
) -> dict[str, int]:
    """Count the held-out pieces compared, and those that are similar to training pieces.

    Of large training splits only a part is compared, so there may be more similar ones.
    """

    def opened(name: SplitName) -> Split:
        return Split(directory / f"{name}.bin", np.cumsum(np.append(0, pieces.sizes()[parts[name]])))

    held_out = [name for name in SPLITS if name != "train" and len(parts[name])]
    if not held_out:
        return {"compared": 0, "similar": 0}
    train = opened("train")
    most = math.ceil(len(parts["train"]) * min(1.0, COMPARED_TOKENS / max(1, len(train.tokens))))
    index = NgramIndex(decode_pieces(train, vocabulary, most))
    return {
        "compared": sum(min(COMPARED_PIECES, len(parts[name])) for name in held_out),
        "similar": sum(
            index.similar(decode_pieces(opened(name), vocabulary, COMPARED_PIECES)) for name in held_out
        ),
    }


def _report(
    made: _Tokenized, copy_of: dict[int, int], parts: dict[SplitName, Ints], source: Source
) -> dict[str, Any]:
    """Return the content of report.json, without the token counts."""
    pieces = made.pieces

    def name_of(piece: int) -> str:
        return source.files[pieces.index[piece]].name

    reasons = Counter(_NUMBER.sub("N", reason) for reason in made.dropped.values())
    return {
        "files": len(source.files),
        "tokenized": len(pieces) - len(copy_of),
        "dropped": len(made.dropped),
        "droppedByReason": dict(reasons.most_common()),
        "droppedFiles": made.dropped,
        "duplicates": {name_of(piece): name_of(original) for piece, original in copy_of.items()},
        "notes": sum(notes for piece, notes in enumerate(pieces.notes) if piece not in copy_of),
        "notesLeftOut": {reason: count for reason, count in made.left_out.items() if count},
        "pieces": {split: [name_of(piece) for piece in rows.tolist()] for split, rows in parts.items()},
    }


def _commit(temporary: Path, target: Path) -> None:
    """Rename a complete directory and write its marker; if another writer was faster, keep theirs."""
    sync_directory(temporary)
    marker = hashlib.sha256((temporary / MANIFEST).read_bytes()).hexdigest()
    try:
        temporary.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        # The other writer has the same content; if it dies before its marker, the next run repairs that.
    sync_directory(target.parent)
    if not (target / MARKER).exists():
        write_marker(target / MARKER, marker)


def _summary(dataset: Dataset) -> Prepared:
    summary = dataset.manifest["summary"]
    compared = summary.get("heldOut", {"compared": 0, "similar": 0})  # older datasets have none
    return Prepared(
        fingerprint=dataset.fingerprint,
        path=dataset.path,
        files=summary["files"],
        dropped=summary["dropped"],
        dropped_names=summary["droppedNames"],
        duplicates=summary["duplicates"],
        train_tokens=summary["tokens"]["train"],
        held_out=compared["compared"],
        similar=compared["similar"],
    )


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
