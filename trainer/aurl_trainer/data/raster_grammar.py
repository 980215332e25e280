"""The grammar of the encoding `raster`: whole steps of all voices, and a limit on silence."""

from __future__ import annotations

from aurl_trainer.data.music import Bools
from aurl_trainer.data.raster import LONGEST_SILENCE_QUARTERS
from aurl_trainer.data.vocabulary import BOS, EOS, PAD, Vocabulary


class RasterGrammar:
    """The state of one piece: the next voice and the length of the current silence."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._voices = vocabulary.config.tracks
        self._pitches = range(
            vocabulary.first["Pitch"], vocabulary.first["Pitch"] + vocabulary.count["Pitch"]
        )
        self._rest = vocabulary.first["Rest"]
        self._longest_silence = LONGEST_SILENCE_QUARTERS * vocabulary.config.positions_per_quarter
        self.begun = self.ended = False
        self.voice = 0
        self.sounds = False  # any voice in this step
        self.silence = self._longest_silence  # steps; at the limit, so that a piece begins with a note

    def allow(self, row: Bools) -> None:
        """Set True in `row` (size,), all False, for the tokens that may come next; at least one."""
        if not self.begun:
            row[BOS] = True
            return
        if self.ended:
            row[PAD] = True
            return
        row[self._pitches.start : self._pitches.stop] = True
        last_chance = self.voice == self._voices - 1 and not self.sounds
        row[self._rest] = not (last_chance and self.silence >= self._longest_silence)
        row[EOS] = self.voice == 0 and self.silence == 0

    def push(self, token: int) -> None:
        """Advance by one token; a forbidden one is interpreted as far as possible."""
        if not self.begun:
            self.begun = True
        elif token == EOS:
            self.ended = True
        elif not self.ended:
            self.sounds |= token in self._pitches
            self.voice += 1
            if self.voice == self._voices:
                self.silence = 0 if self.sounds else self.silence + 1
                self.voice, self.sounds = 0, False
