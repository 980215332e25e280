"""The sources of music: the files of each, listed in a fixed order."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from aurl_trainer.data.archive import unpacked_archive
from aurl_trainer.data.config import ArchiveConfig, DirectoryConfig, Music21CorpusConfig, SourceConfig
from aurl_trainer.data.errors import DatasetError
from aurl_trainer.data.pretokenized import raster_pieces, token_pieces
from aurl_trainer.data.receipt import stamp
from aurl_trainer.data.source_file import UNREADABLE, SourceFile, SourceFiles
from aurl_trainer.data.vocabulary import Vocabulary

DIGESTS_AT_ONCE: Final = 1024
# Formats with notes; the corpus of music21 also has analyses without.
SCORE_SUFFIXES = {".mxl", ".xml", ".musicxml", ".krn", ".abc"}


class MidiFiles(SourceFiles):
    """MIDI files below a directory, sorted; keeps only their names, of which there may be millions."""

    def __init__(self, root: Path, names: list[str]) -> None:
        self._root, self._names = root, sorted(names)

    def __len__(self) -> int:
        return len(self._names)

    def file(self, number: int) -> SourceFile:
        """Create file `number`."""
        name = self._names[number]
        # Reports are UTF-8; file names need not be.
        readable = name.encode(errors="surrogateescape").decode(errors="replace")
        return SourceFile(readable, self._root / name, "midi")


@dataclass(frozen=True)
class Source:
    """All files of a source in a fixed order, and its key in the job file."""

    files: Sequence[SourceFile]
    key: str
    """Path in the job file, for errors."""
    where: str
    """Location of the files in words, for errors."""
    reader_version: str
    """Part of the dataset's fingerprint, because another reader may read the same bytes differently."""

    def digests(self, threads: int) -> Iterator[tuple[str, str]]:
        """Yield name and SHA-256 of each file, holding only a few in memory."""
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(self.files), DIGESTS_AT_ONCE):
                files = self.files[start : start + DIGESTS_AT_ONCE]
                digests = pool.map(SourceFile.digest, files)
                yield from zip((file.name for file in files), digests, strict=True)

    def stamps(self) -> Iterator[tuple[str, str]]:
        """Yield name, size and modification time of each file, without reading it."""
        for file in self.files:
            try:
                yield file.name, stamp(file.path)
            except OSError:
                yield file.name, UNREADABLE


def open_source(config: SourceConfig, volume: Path, job_dir: Path, vocabulary: Vocabulary) -> Source:
    """List the files of a source, after downloading an archive to the job's directory.

    Raises DatasetError if there are none, and DownloadError if the download of an archive fails.
    """
    if config.directory is not None:
        return _directory(config.directory, volume)
    if config.archive is not None:
        return _archive(config.archive, job_dir)
    if config.tokens is not None:
        files = token_pieces(volume / config.tokens.path, config.tokens.path, vocabulary)
        return Source(files, "dataset.source.tokens", f"under {config.tokens.path!r}", "tokens")
    if config.raster is not None:
        pieces = raster_pieces(volume / config.raster.path, config.raster)
        return Source(pieces, "dataset.source.raster", f"in {config.raster.path!r}", "raster")
    assert config.music21_corpus is not None
    return _music21_corpus(config.music21_corpus)


def _archive(config: ArchiveConfig, job_dir: Path) -> Source:
    root = unpacked_archive(config, job_dir / "source")
    key, where = "dataset.source.archive", f"in the archive {config.url}"
    return Source(_midi_files(root, config.pattern, key, where), f"{key}.url", where, "midi")


def _directory(config: DirectoryConfig, volume: Path) -> Source:
    key, where = "dataset.source.directory", f"under {config.path!r}"
    root = volume / config.path
    if not root.is_dir():
        raise DatasetError(
            f"{key}.path: the directory {config.path!r} does not exist on the volume of the job; "
            "put the music there or correct the path."
        )
    return Source(_midi_files(root, config.pattern, key, where), f"{key}.path", where, "midi")


def _midi_files(root: Path, pattern: str, key: str, where: str) -> MidiFiles:
    names = list(_matching(root, pattern))
    if not names:
        raise DatasetError(
            f"{key}.pattern: no file {where} matches {pattern!r}; add MIDI files or correct the pattern."
        )
    return MidiFiles(root, names)


def _matching(root: Path, pattern: str) -> Iterator[str]:
    """Yield the matching paths, relative to `root`."""
    for folder, _, names in os.walk(root):
        below = os.path.relpath(folder, root)
        for name in names:
            relative = name if below == "." else f"{below}/{name}"
            if fnmatch.fnmatchcase(relative.lower(), pattern.lower()):
                yield relative


def _music21_corpus(config: Music21CorpusConfig) -> Source:
    key = "dataset.source.music21Corpus"
    try:
        from music21 import corpus
    except ImportError as error:
        raise DatasetError(
            f"{key}: the music21 package is not installed; install aurl-trainer[corpus]."
        ) from error
    if config.collection == "chorales":
        numbered = corpus.chorales.Iterator(returnType="filename")
        works = (corpus.getWork(name) for name in dict.fromkeys(numbered))
        # Of several formats of a work, the last is MusicXML.
        paths = [Path(str(work[-1] if isinstance(work, list) else work)) for work in works]
        where = "in the chorales of music21"
    else:
        paths = sorted(Path(str(path)) for path in corpus.getComposer(config.composer))
        paths = [path for path in paths if path.suffix.lower() in SCORE_SUFFIXES]
        where = f"by {config.composer!r} in the corpus of music21"
        if not paths:
            raise DatasetError(
                f"{key}.composer: found no music {where}; "
                "set it to a folder of the corpus, such as bach, palestrina, haydn or mozart."
            )
    files = [
        SourceFile(f"{path.parent.name}/{path.name}", path, "score")
        for path in paths[: config.max_pieces or None]
    ]
    return Source(files, key, where, f"music21 {metadata.version('music21')}")
