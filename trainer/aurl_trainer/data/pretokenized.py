"""Sources that define their own split: tokens of a prepared dataset, and rasters in a JSON file."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from aurl_trainer.data.config import RasterConfig
from aurl_trainer.data.errors import BadMidiError, DatasetError
from aurl_trainer.data.music import Ints, Music
from aurl_trainer.data.notes import Encoded
from aurl_trainer.data.shards import OFFSET_TYPE, SPLITS, TOKEN_TYPE, VOCABULARY, SplitName
from aurl_trainer.data.source_file import SourceFile, SourceFiles
from aurl_trainer.data.tokenizer import count_notes
from aurl_trainer.data.vocabulary import BOS, EOS, PLAIN_VELOCITY, Vocabulary

_NAMES: Final[dict[SplitName, tuple[str, ...]]] = {
    "train": ("train",),
    "validation": ("validation", "valid"),
    "test": ("test",),
}


@dataclass(frozen=True)
class TokenPiece(SourceFile):
    """A piece of a prepared dataset: a range of the token stream of its split."""

    begin: int = 0
    end: int = 0

    def tokens(self) -> Ints:
        """Read the tokens (N,)."""
        with self.path.open("rb") as file:
            file.seek(self.begin * TOKEN_TYPE.itemsize)
            data = file.read((self.end - self.begin) * TOKEN_TYPE.itemsize)
        return np.frombuffer(data, TOKEN_TYPE).astype(np.int64)

    def encode(self, vocabulary: Vocabulary) -> Encoded:
        """Return the tokens unchanged. Raises BadMidiError if they are not a piece of the vocabulary."""
        tokens = self.tokens()
        inner = tokens[1:-1]
        if len(inner) == 0 or tokens[0] != BOS or tokens[-1] != EOS or inner.min() <= EOS:
            raise BadMidiError(self.name, "its tokens are not a single piece from Bos to Eos")
        if tokens.max() >= vocabulary.size:
            raise BadMidiError(self.name, f"its token {tokens.max()} is not in the vocabulary")
        return Encoded(tokens, count_notes(tokens, vocabulary), {})

    def digest(self) -> str:
        """Return the SHA-256 of the tokens."""
        return hashlib.sha256(self.tokens().astype(TOKEN_TYPE).tobytes()).hexdigest()


class TokenPieces(SourceFiles):
    """All pieces of a prepared dataset, split by split; keeps only their offsets in memory."""

    def __init__(self, root: Path, offsets: dict[SplitName, Ints]) -> None:
        self._root, self._offsets = root, offsets

    def __len__(self) -> int:
        return sum(len(offsets) - 1 for offsets in self._offsets.values())

    def file(self, number: int) -> SourceFile:
        """Create piece `number`, counted over all splits."""
        for split, offsets in self._offsets.items():
            if number < len(offsets) - 1:
                begin, end = offsets[number : number + 2].tolist()
                path = self._root / f"{split}.bin"
                return TokenPiece(f"{split}/{number}", path, "midi", split, begin, end)
            number -= len(offsets) - 1
        raise IndexError(number)


def token_pieces(root: Path, shown: str, vocabulary: Vocabulary) -> TokenPieces:
    """Return the pieces of a prepared dataset.

    Raises DatasetError if it is incomplete or was made with another vocabulary.
    """
    key = "dataset.source.tokens.path"
    try:
        theirs = Vocabulary.load(root / VOCABULARY)
    except DatasetError as error:
        raise DatasetError(f"{key}: {shown!r} is not a prepared dataset. {error}") from error
    if theirs.fingerprint != vocabulary.fingerprint:
        ours, other = vocabulary.config.model_dump(by_alias=True), theirs.config.model_dump(by_alias=True)
        different = ", ".join(f"{name}: {other[name]}" for name in ours if ours[name] != other[name])
        raise DatasetError(
            f"{key}: the tokens under {shown!r} were made with another tokenizer; "
            f"set dataset.tokenizer to {{{different}}}."
        )
    offsets: dict[SplitName, Ints] = {}
    for split in SPLITS:
        stream, index = root / f"{split}.bin", root / f"{split}.index"
        if not stream.exists():
            continue
        try:
            ends = np.fromfile(index, OFFSET_TYPE).astype(np.int64)
            size = stream.stat().st_size // TOKEN_TYPE.itemsize
        except OSError as error:
            raise DatasetError(f"{key}: {index} cannot be read: {error.strerror}.") from error
        if not len(ends) or ends[0] != 0 or ends[-1] != size or (np.diff(ends) < 0).any():
            raise DatasetError(f"{key}: {index} does not match {stream.name}; copy the dataset again.")
        offsets[split] = ends
    pieces = TokenPieces(root, offsets)
    if not offsets.get("train", np.zeros(1)).any() or not len(pieces):
        raise DatasetError(f"{key}: {shown!r} has no pieces to train on (train.bin).")
    return pieces


@dataclass(frozen=True)
class RasterPiece(SourceFile):
    """A piece of a JSON file of rasters."""

    key: str = ""
    """Key of its split in the file."""
    number: int = 0
    steps_per_quarter: int = 4

    def read(self) -> Music:
        """Read the piece, turning each run of a pitch in a voice into a note. Raises BadMidiError."""
        piece = _rasters(self.path)[self.key][self.number]
        notes: list[tuple[int, int, int, int, int]] = []
        running: dict[int, tuple[int, int]] = {}  # voice → pitch, start
        voices = 0
        for time, step in enumerate([*piece, []]):
            pitches = [_pitch(value, self.name) for value in step]
            voices = max(voices, len(pitches))
            for voice in range(voices):
                pitch = pitches[voice] if voice < len(pitches) else -1
                before, start = running.get(voice, (-1, time))
                if pitch != before:
                    if before >= 0:
                        notes.append((start, time, before, PLAIN_VELOCITY, voice))
                    running[voice] = pitch, time
        if not notes:
            raise BadMidiError(self.name, "it has no notes")
        return Music.from_rows(self.steps_per_quarter, notes, [0] * voices, [], [])

    def digest(self) -> str:
        """Return the SHA-256 of the piece as JSON."""
        piece = _rasters(self.path)[self.key][self.number]
        return hashlib.sha256(json.dumps([piece, self.steps_per_quarter]).encode()).hexdigest()


def raster_pieces(path: Path, config: RasterConfig) -> list[SourceFile]:
    """Return the pieces of a JSON file. Raises DatasetError if it does not have the documented form."""
    key = "dataset.source.raster.path"
    try:
        content = _rasters(path)
    except OSError as error:
        raise DatasetError(f"{key}: {config.path!r} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise DatasetError(f"{key}: {config.path!r} is not valid JSON ({error}).") from error
    pieces: list[SourceFile] = []
    for split, names in _NAMES.items():
        for name in names:
            found = content.get(name, []) if isinstance(content, dict) else None
            if not isinstance(found, list) or not all(_is_piece(piece) for piece in found):
                raise DatasetError(
                    f"{key}: {config.path!r} must hold {{train, valid, test}}, each a list of pieces, "
                    "each a list of time steps, each a list of pitches."
                )
            pieces += [
                RasterPiece(f"{name}/{number}", path, "midi", split, name, number, config.steps_per_quarter)
                for number in range(len(found))
            ]
    if not any(piece.split == "train" for piece in pieces):
        raise DatasetError(f"{key}: {config.path!r} has no pieces under `train`.")
    return pieces


@lru_cache(maxsize=1)
def _rasters(path: Path) -> Any:
    return json.loads(path.read_text())


def _is_piece(piece: Any) -> bool:
    return isinstance(piece, list) and all(isinstance(step, list) for step in piece)


def _pitch(value: Any, name: str) -> int:
    """Return a MIDI pitch, or -1 for silence. Raises BadMidiError."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return -1
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value > 127:
        raise BadMidiError(name, f"{value!r} is not a MIDI pitch")
    return int(value) if value >= 0 else -1
