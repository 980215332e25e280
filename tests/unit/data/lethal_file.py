"""A file that kills the process that reads it, as a bug in a native parser would."""

from __future__ import annotations

import os
from dataclasses import dataclass

from aurl_trainer.data.music import Music
from aurl_trainer.data.source_file import SourceFile


@dataclass(frozen=True)
class LethalFile(SourceFile):
    """A lethal file; importable, so that worker processes can unpickle it."""

    def read(self) -> Music:
        """End the process without a word."""
        os._exit(9)
