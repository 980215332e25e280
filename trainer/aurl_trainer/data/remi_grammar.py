"""The grammar of the encoding `remi`.

It allows exactly what `remi.encode` can write, in the same order, except for the length of notes: one may
overlap the next equal one, and decoding cuts it. No music theory: any note may follow any note.
"""

from __future__ import annotations

from typing import Final

from aurl_trainer.data.music import Bools
from aurl_trainer.data.remi import MAX_EMPTY_BARS
from aurl_trainer.data.vocabulary import BAR, BOS, EOS, FALLBACK_METER, KIND, KINDS, PAD, Vocabulary

_METER, _POSITION, _TEMPO = KIND["Meter"], KIND["Position"], KIND["Tempo"]
_TRACK, _DRUMS, _PROGRAM = KIND["Track"], KIND["Drums"], KIND["Program"]
_PITCH, _DRUM, _VELOCITY, _DURATION = KIND["Pitch"], KIND["Drum"], KIND["Velocity"], KIND["Duration"]
_BOS, _BAR, _EOS, _PAD = KIND["Bos"], KIND["Bar"], KIND["Eos"], KIND["Pad"]
_NOTHING: Final = -1
"""State before the first token; any other state is the kind of the last token."""


class RemiGrammar:
    """The state of one piece. After Eos, only Pad is allowed."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        # Python lists: indexing an array costs ten times as much.
        self._kinds, self._values = vocabulary.kind_of.tolist(), vocabulary.value_of.tolist()
        self._first = [vocabulary.first[kind] for kind in KINDS]
        self._end = [vocabulary.first[kind] + vocabulary.count[kind] for kind in KINDS]
        self._bar_lengths = vocabulary.bar_lengths.tolist()
        self._has = [vocabulary.count[kind] > 0 for kind in KINDS]
        self._drums_track = vocabulary.config.tracks  # drums are numbered after all melodic tracks
        self.last = _NOTHING
        self.tracks, self.drums = 0, False  # in the header: number of melodic tracks; drums
        self.meter = self.tempo = -1  # numbers of the last ones; -1 before the first
        self.bar_length = self._bar_lengths[vocabulary.meter_index[FALLBACK_METER]]
        self.position = -1  # the last one in this bar
        self.track = -1  # the last one in this bar
        self.pitch = -1  # the last one at this position on this track
        self.in_header, self.has_notes = True, False
        self.empty_bars = 0  # in a row, this one included

    @property
    def ended(self) -> bool:
        """True after Eos."""
        return self.last in (_EOS, _PAD)

    def allow(self, row: Bools) -> None:
        """Set True in `row` (size,), all False, for the tokens that may come next; at least one."""
        last = self.last
        if last == _NOTHING:
            row[BOS] = True
        elif self.ended:
            row[PAD] = True
        elif self.in_header:
            self._allow_header(row)
        elif last in (_PITCH, _DRUM):
            self._allow_kind(row, _VELOCITY if self._has[_VELOCITY] else _DURATION)
        elif last == _VELOCITY:
            self._allow_kind(row, _DURATION)
        elif last in (_TRACK, _DRUMS):
            self._allow_kind(row, _DRUM if last == _DRUMS else _PITCH)
        elif last == _DURATION:
            self._allow_after_note(row)
        elif last == _POSITION:
            self._allow_kind(row, _TEMPO, but=self.tempo)
            if self.tempo >= 0 or not self._has[_TEMPO]:
                self._allow_note(row)
        else:
            self._allow_in_bar(row)

    def _allow_header(self, row: Bools) -> None:
        if self.last == _TRACK and self._has[_PROGRAM]:
            self._allow_kind(row, _PROGRAM)
            return
        if not self.drums:
            self._allow_kind(row, _TRACK, self.tracks, self.tracks + 1)
            self._allow_kind(row, _DRUMS)
        row[BAR] = self.tracks > 0 or self.drums

    def _allow_in_bar(self, row: Bools) -> None:
        """Allow what follows Bar, Meter or Tempo."""
        if self.last == _BAR:
            self._allow_kind(row, _METER, but=self.meter)
            if self.meter < 0:  # a piece begins with its metre, then its tempo
                return
        opening = self.tempo < 0 and self._has[_TEMPO]
        self._allow_kind(row, _POSITION, self.position + 1, 1 if opening else self.bar_length)
        row[BAR] = self.has_notes and self.empty_bars <= MAX_EMPTY_BARS
        if self.last == _TEMPO:
            self._allow_note(row)

    def _allow_note(self, row: Bools) -> None:
        """Allow the first note at a position: on the track of the previous note, or on any other."""
        self._allow_kind(row, _TRACK, 0, self.tracks, but=self.track)
        if self.track == self._drums_track:
            self._allow_kind(row, _DRUM)
            return
        if self.drums:
            self._allow_kind(row, _DRUMS)
        if self.track >= 0:
            self._allow_kind(row, _PITCH)

    def _allow_after_note(self, row: Bools) -> None:
        row[BAR] = row[EOS] = True
        self._allow_kind(row, _POSITION, self.position + 1, self.bar_length)
        if self.track == self._drums_track:
            self._allow_kind(row, _DRUM, self.pitch + 1)
            return
        self._allow_kind(row, _PITCH, self.pitch + 1)
        self._allow_kind(row, _TRACK, self.track + 1, self.tracks)
        if self.drums:
            self._allow_kind(row, _DRUMS)

    def _allow_kind(self, row: Bools, kind: int, low: int = 0, high: int = 1 << 30, but: int = -1) -> None:
        """Allow the tokens of a kind with numbers in [low, high), except `but`."""
        first, end = self._first[kind], self._end[kind]
        row[first + low : min(end, first + high)] = True
        if 0 <= but < end - first:
            row[first + but] = False

    def push(self, token: int) -> None:
        """Advance by one token; a forbidden one is interpreted as far as possible."""
        kind, value = self._kinds[token], self._values[token]
        if self.ended:
            return
        if kind == _BAR:
            self.in_header = False
            self.empty_bars += 1
            self.position = self.track = self.pitch = -1
        elif kind == _METER:
            self.meter, self.bar_length = value, self._bar_lengths[value]
        elif kind == _POSITION:
            self.position, self.pitch = value, -1
        elif kind == _TEMPO:
            self.tempo = value
        elif kind in (_TRACK, _DRUMS) and self.in_header:
            self.tracks += kind == _TRACK
            self.drums |= kind == _DRUMS
        elif kind in (_TRACK, _DRUMS):
            self.track, self.pitch = (value if kind == _TRACK else self._drums_track), -1
        elif kind in (_PITCH, _DRUM):
            self.pitch = value
        elif kind == _DURATION:
            self.has_notes, self.empty_bars = True, 0
        self.last = kind
