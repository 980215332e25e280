"""A prepared dataset on disk: a memory-mapped stream of tokens per split and the offsets of its pieces.

dataset/<fingerprint>/  train.bin validation.bin test.bin        uint16, little-endian, pieces end to end
                        train.index …                            int64, little-endian: pieces + 1 offsets
                        vocabulary.json report.json
                        manifest.json                            sha256 and size of each, summary
                        COMMITTED                                sha256 of the manifest
"""

from __future__ import annotations

import hashlib
import json
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from aurl_trainer.data.errors import DatasetError
from aurl_trainer.data.music import Ints
from aurl_trainer.data.vocabulary import Vocabulary
from aurl_trainer.system.durable import first_difference

TOKEN_TYPE: Final = np.dtype("<u2")
OFFSET_TYPE: Final = np.dtype("<i8")

Tokens = NDArray[np.uint16]
SplitName = Literal["train", "validation", "test"]
SPLITS: Final[tuple[SplitName, ...]] = ("train", "validation", "test")
MARKER, MANIFEST = "COMMITTED", "manifest.json"
VOCABULARY, REPORT = "vocabulary.json", "report.json"
FORMAT: Final = 1
MAPPED_BYTES: Final = 64 * 2**20
"""Resident bytes of a stream after which its pages are released."""
MAPPED_AROUND: Final = 64 * 2**10
"""Bytes that Linux maps around a page that is read."""


class Split:
    """One split: `tokens` (N,) uint16, mapped into memory, and `offsets` (P + 1,) of its P pieces.

    Pages that were read stay resident in this process until they are released. Readers report to
    `count_reads`, so that resident memory stays bounded for streams of any length.
    """

    def __init__(self, path: Path, offsets: Ints) -> None:
        self.offsets = offsets
        self._mapping: mmap.mmap | None = None
        self.tokens: Tokens = np.zeros(0, TOKEN_TYPE)
        if path.stat().st_size:  # an empty file cannot be mapped
            with path.open("rb") as file:
                self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            # A plain array over the mapping: the memmap class costs microseconds per slice.
            self.tokens = np.frombuffer(self._mapping, TOKEN_TYPE)
        self._most = MAPPED_BYTES if hasattr(mmap, "MADV_DONTNEED") else 1 << 62
        self._may_exceed = self.tokens.nbytes > self._most
        self._touched = 0

    def count_reads(self, rows: int, length: int) -> None:
        """Report that `rows` ranges of `length` tokens were read; releases pages above MAPPED_BYTES."""
        if not self._may_exceed or self._mapping is None:
            return
        self._touched += rows * (length * TOKEN_TYPE.itemsize + MAPPED_AROUND)
        if self._touched > self._most:
            self._touched = 0
            self._mapping.madvise(mmap.MADV_DONTNEED)  # they stay in the page cache


@dataclass(frozen=True)
class Dataset:
    """A complete prepared dataset."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> Dataset:
        """Open a dataset after checking its marker, manifest and file sizes. Raises DatasetError."""
        try:
            marker = (path / MARKER).read_text().strip()
            text = (path / MANIFEST).read_bytes()
            manifest = json.loads(text)
            if manifest["format"] != FORMAT:
                raise DatasetError(
                    f"The dataset {path} has format {manifest['format']} and this trainer reads format "
                    f"{FORMAT}; prepare it again."
                )
            for name, entry in manifest["files"].items():
                size = (path / name).stat().st_size
                if size != entry["bytes"]:
                    raise DatasetError(
                        f"The dataset {path} is damaged: {name} has {size} bytes instead of "
                        f"{entry['bytes']}; delete the dataset."
                    )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"{path} is not a complete dataset ({error}); prepare it again.") from error
        if hashlib.sha256(text).hexdigest() != marker:
            raise DatasetError(
                f"The dataset {path} is damaged: {MANIFEST} does not match {MARKER}; delete the dataset."
            )
        return cls(path, manifest)

    def verify(self) -> None:
        """Compare every file with its checksum. Raises DatasetError naming the first that differs."""
        difference = first_difference(self.path, self.manifest["files"])
        if difference:
            raise DatasetError(f"The dataset {self.path} is damaged: {difference}; delete the dataset.")

    @property
    def fingerprint(self) -> str:
        """Hash of everything the dataset was made from, in hex; also the name of its directory."""
        return str(self.manifest["fingerprint"])

    def vocabulary(self) -> Vocabulary:
        """Load the vocabulary of its tokens. Raises DatasetError."""
        return Vocabulary.load(self.path / VOCABULARY)

    def split(self, name: SplitName) -> Split:
        """Map one split into memory. Raises DatasetError."""
        offsets = np.fromfile(self.path / f"{name}.index", OFFSET_TYPE)
        split = Split(self.path / f"{name}.bin", offsets.astype(np.int64))
        if not len(offsets) or offsets[-1] != len(split.tokens):
            raise DatasetError(
                f"The dataset {self.path} is damaged: {name}.index does not match {name}.bin; delete it."
            )
        return split
