"""Hypothesis strategies for MIDI files, from tidy to strange, as bytes."""

from __future__ import annotations

import io

import mido
from hypothesis import strategies as st

Event = tuple[int, mido.Message | mido.MetaMessage]

channels = st.sampled_from([0, 0, 1, 5, 9])
pitches = st.one_of(st.sampled_from([60, 62, 36]), st.integers(0, 127))
deltas = st.one_of(st.sampled_from([0, 0, 10, 40, 120, 480]), st.integers(0, 700), st.sampled_from([4_000]))
notes_on = st.builds(
    lambda c, n, v: mido.Message("note_on", channel=c, note=n, velocity=v),
    channels,
    pitches,
    st.integers(0, 127),
)
notes_off = st.builds(lambda c, n: mido.Message("note_off", channel=c, note=n), channels, pitches)
programs = st.builds(
    lambda c, p: mido.Message("program_change", channel=c, program=p), channels, st.integers(0, 127)
)
tempi = st.builds(lambda t: mido.MetaMessage("set_tempo", tempo=t), st.integers(1, 2**24 - 1))
meters = st.builds(
    lambda n, d: mido.MetaMessage("time_signature", numerator=n, denominator=2**d),
    st.integers(1, 20),
    st.integers(0, 6),
)
messages = st.one_of(notes_on, notes_on, notes_on, notes_off, notes_off, programs, tempi, meters)
chunks = st.lists(st.tuples(deltas, messages), max_size=40)


@st.composite
def midi_files(draw: st.DrawFn) -> bytes:
    """Draw a file of type 0 or 1 that mido can write."""
    tracks = draw(st.lists(chunks, min_size=1, max_size=3))
    file = mido.MidiFile(
        type=1 if len(tracks) > 1 else draw(st.sampled_from([0, 1])),
        ticks_per_beat=draw(st.sampled_from([1, 7, 24, 96, 120, 480, 960])),
    )
    for events in tracks:
        file.tracks.append(mido.MidiTrack([message.copy(time=delta) for delta, message in events]))
    out = io.BytesIO()
    file.save(file=out)
    return out.getvalue()


def tune(*pitches: int, channel: int = 0, program: int = 0, ticks_per_beat: int = 480) -> bytes:
    """Return a file of consecutive quarter notes."""
    file = mido.MidiFile(ticks_per_beat=ticks_per_beat)
    track = mido.MidiTrack([mido.Message("program_change", channel=channel, program=program)])
    for pitch in pitches:
        track.append(mido.Message("note_on", channel=channel, note=pitch, velocity=80))
        track.append(mido.Message("note_off", channel=channel, note=pitch, time=ticks_per_beat))
    file.tracks.append(track)
    out = io.BytesIO()
    file.save(file=out)
    return out.getvalue()
