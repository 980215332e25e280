"""The files of a source: how a report names each, and how it is read, encoded and hashed."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, overload

from aurl_trainer.data.errors import BadMidiError
from aurl_trainer.data.midi import MAX_FILE_BYTES, read_midi
from aurl_trainer.data.music import Music
from aurl_trainer.data.notes import Encoded
from aurl_trainer.data.shards import SplitName
from aurl_trainer.data.tokenizer import encode
from aurl_trainer.data.vocabulary import Vocabulary

UNREADABLE: Final = "unreadable"


@dataclass(frozen=True)
class SourceFile:
    """One piece of a source."""

    name: str
    """Name in reports."""
    path: Path
    reader: Literal["midi", "score"]
    split: SplitName | None = None
    """Split of the piece, if the source defines its own."""

    def read(self) -> Music:
        """Read the piece. Raises BadMidiError."""
        if self.reader == "score":
            from aurl_trainer.data.score import read_score

            return read_score(self.path, self.name)
        try:
            if not self.path.is_file():
                raise BadMidiError(self.name, "it is not a regular file")
            with self.path.open("rb") as file:
                return read_midi(file.read(MAX_FILE_BYTES + 1), self.name)
        except OSError as error:
            raise BadMidiError(self.name, (error.strerror or str(error)).lower()) from error

    def encode(self, vocabulary: Vocabulary) -> Encoded:
        """Return the tokens of the piece. Raises BadMidiError."""
        return encode(self.read(), vocabulary)

    def digest(self) -> str:
        """Return the SHA-256 of the content, or UNREADABLE."""
        try:
            if not self.path.is_file():
                return UNREADABLE
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return UNREADABLE


class SourceFiles(Sequence[SourceFile]):
    """Files that are created on access, because a source may have millions."""

    @abstractmethod
    def file(self, number: int) -> SourceFile:
        """Create file `number`, from 0 to len(self) - 1."""

    @overload
    def __getitem__(self, index: int) -> SourceFile: ...
    @overload
    def __getitem__(self, index: slice) -> list[SourceFile]: ...
    def __getitem__(self, index: int | slice) -> SourceFile | list[SourceFile]:
        numbers = range(len(self))[index]
        return [self.file(number) for number in numbers] if isinstance(numbers, range) else self.file(numbers)
