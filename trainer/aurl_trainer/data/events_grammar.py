"""The grammar of the encoding `events`: exactly what `events.encode` can write, in the same order."""

from __future__ import annotations

from typing import Final

from aurl_trainer.data.events import LONGEST_GAP_QUARTERS
from aurl_trainer.data.music import Bools
from aurl_trainer.data.vocabulary import BOS, EOS, KIND, PAD, Vocabulary

_TRACK, _DRUMS, _PROGRAM, _TEMPO = KIND["Track"], KIND["Drums"], KIND["Program"], KIND["Tempo"]
_VELOCITY, _DRUM, _ON, _OFF, _SHIFT = KIND["Velocity"], KIND["Drum"], KIND["On"], KIND["Off"], KIND["Shift"]
_BOS, _EOS, _PAD = KIND["Bos"], KIND["Eos"], KIND["Pad"]
_NOTHING: Final = -1
"""State before the first token; any other state is the kind of the last token."""
_WIDTH: Final = 128
"""A note is numbered as track · _WIDTH + number of its pitch."""


class EventsGrammar:
    """The state of one piece: the sounding notes and the tokens of the current time."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._kinds, self._values = vocabulary.kind_of.tolist(), vocabulary.value_of.tolist()
        self._first, self._count = vocabulary.first, vocabulary.count
        self._longest = int(vocabulary.durations[-1])
        self._longest_gap = LONGEST_GAP_QUARTERS * vocabulary.config.positions_per_quarter
        self._drums_track = vocabulary.config.tracks
        self.last = _NOTHING
        self.in_header, self.has_notes = True, False
        self.tracks, self.drums = 0, False  # in the header
        self.track = self.level = self.tempo = -1  # the current ones
        self.now = self.gap = 0  # steps; gap: since the last event
        self.sounding: dict[int, int] = {}  # note → its start, oldest first
        self.last_off = self.last_on = -1  # notes that ended and began last at this time

    def allow(self, row: Bools) -> None:
        """Set True in `row` (size,), all False, for the tokens that may come next; at least one."""
        last = self.last
        if last == _NOTHING:
            row[BOS] = True
        elif last in (_EOS, _PAD):
            row[PAD] = True
        elif self.in_header:
            self._allow_header(row)
        elif last == _VELOCITY:
            self._allow_on(row)
        elif last in (_TRACK, _DRUMS):
            self._allow_on_track(row)
        else:
            self._allow_event(row)

    def _allow_header(self, row: Bools) -> None:
        if self.last == _TRACK and self._count["Program"]:
            self._allow_kind(row, "Program")
            return
        if not self.drums:
            self._allow_kind(row, "Track", self.tracks, self.tracks + 1)
            self._allow_kind(row, "Drums")
        if not self.tracks and not self.drums:
            return
        if self._count["Tempo"]:
            self._allow_kind(row, "Tempo")
        else:
            self._allow_track_change(row)

    def _allow_event(self, row: Bools) -> None:
        """Allow what follows Shift, Tempo, On, Off or Drum."""
        if self.last == _SHIFT:
            self._allow_kind(row, "Tempo", but=self.tempo)
        self._allow_on_track(row)
        self._allow_track_change(row)
        if self._due() >= 0 or not self.has_notes:
            return
        if self.last != _SHIFT or self.gap % self._count["Shift"] == 0:
            most = self._longest_gap - self.gap
            if self.sounding:
                most = min(most, next(iter(self.sounding.values())) + self._longest - self.now)
            self._allow_kind(row, "Shift", 0, most)
        row[EOS] = self.last in (_OFF, _DRUM) and not self.sounding

    def _allow_on_track(self, row: Bools) -> None:
        """Allow note-offs and note-ons on the current track, and the Velocity before a note-on."""
        if self.track < 0:
            return
        for pitch in self._ending(self.track):
            row[self._first["Off"] + pitch] = True
        if self._due() < 0 and self._may_begin(self.track):
            if self._count["Velocity"]:
                self._allow_kind(row, "Velocity", but=self.level)
            if self.level >= 0 or not self._count["Velocity"]:
                self._allow_on(row)

    def _allow_on(self, row: Bools) -> None:
        above = self.last_on - self.track * _WIDTH + 1
        if self.track == self._drums_track:
            self._allow_kind(row, "Drum", max(0, above))
            return
        self._allow_kind(row, "On", max(0, above))
        for note in self.sounding:
            if note // _WIDTH == self.track:
                row[self._first["On"] + note % _WIDTH] = False

    def _allow_track_change(self, row: Bools) -> None:
        due = self._due() >= 0
        for track in (*range(self.tracks), *((self._drums_track,) if self.drums else ())):
            if track != self.track and ((not due and self._may_begin(track)) or self._ending(track)):
                name, value = ("Drums", 0) if track == self._drums_track else ("Track", track)
                row[self._first[name] + value] = True

    def _due(self) -> int:
        """Return the lowest note that has to end now, or -1."""
        oldest = next(iter(self.sounding.values()), self.now)
        if oldest + self._longest > self.now:
            return -1
        return min(note for note, begin in self.sounding.items() if begin == oldest)

    def _ending(self, track: int) -> list[int]:
        """Return the pitches of a track that may end now: above the last, and up to one that has to."""
        if self.last_on >= 0:
            return []
        due = self._due()
        return [
            note % _WIDTH
            for note, begin in self.sounding.items()
            if note // _WIDTH == track
            and begin < self.now
            and note > self.last_off
            and (due < 0 or note <= due)
        ]

    def _may_begin(self, track: int) -> bool:
        if track == self._drums_track:
            return self.last_on < track * _WIDTH + self._count["Drum"] - 1
        above = max(track * _WIDTH, self.last_on + 1)
        end = track * _WIDTH + self._count["On"]
        return sum(above <= note < end for note in self.sounding) < end - above

    def _allow_kind(self, row: Bools, kind: str, low: int = 0, high: int = 1 << 30, but: int = -1) -> None:
        """Allow the tokens of a kind with numbers in [low, high), except `but`."""
        first, count = self._first[kind], self._count[kind]
        row[first + low : first + max(low, min(count, high))] = True
        if 0 <= but < count:
            row[first + but] = False

    def push(self, token: int) -> None:
        """Advance by one token; a forbidden one is interpreted as far as possible."""
        kind, value = self._kinds[token], self._values[token]
        if self.last in (_EOS, _PAD):
            return
        if kind == _SHIFT:
            self.now, self.gap = self.now + value + 1, self.gap + value + 1
            self.last_off = self.last_on = -1
        else:
            self.gap = 0
        if kind in (_TRACK, _DRUMS):
            self._push_track(value if kind == _TRACK else self._drums_track)
        elif kind == _TEMPO:
            self.tempo, self.in_header = value, False
        elif kind == _VELOCITY:
            self.level = value
        elif kind == _OFF:
            self.last_off = self.track * _WIDTH + value
            self.sounding.pop(self.last_off, None)
        elif kind in (_ON, _DRUM):
            self.last_on, self.has_notes = self.track * _WIDTH + value, True
            if kind == _ON:
                self.sounding[self.last_on] = self.now
        self.last = kind

    def _push_track(self, track: int) -> None:
        drums = track == self._drums_track
        if self.in_header and ((drums and not self.drums) or track == self.tracks):
            self.tracks += not drums
            self.drums |= drums
        else:
            self.track, self.in_header = track, False
