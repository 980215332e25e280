"""Read MIDI files (with symusic, or with mido if that fails) and write them (with mido)."""

from __future__ import annotations

import io
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import mido
import numpy as np
import symusic

from aurl_trainer.data.errors import BadMidiError
from aurl_trainer.data.music import DRUMS, Ints, Music

DRUM_CHANNEL = 9
SUSTAIN_PEDAL, PEDAL_DOWN = 64, 64  # number of the controller, and its lowest value that means down
MELODIC_CHANNELS = tuple(channel for channel in range(16) if channel != DRUM_CHANNEL)
MAX_FILE_BYTES = 64 * 2**20
# mido needs about 500 bytes of memory per byte of file; symusic about 10.
MAX_MIDO_BYTES = 4 * 2**20
# Keeps every product of ticks and positions far inside int64, even for broken files.
MAX_TICK = 2**40


def read_midi(data: bytes, name: str) -> Music:
    """Read the bytes of a MIDI file, called `name` in errors. Raises BadMidiError.

    Type 2 files with several tracks are refused: their tracks are separate pieces, not played together.
    """
    if len(data) > MAX_FILE_BYTES:
        raise BadMidiError(name, f"it is larger than the limit of {MAX_FILE_BYTES // 2**20} MiB")
    kind, tracks = int.from_bytes(data[8:10]), int.from_bytes(data[10:12])
    if data[:4] == b"MThd" and kind == 2 and tracks > 1:
        raise BadMidiError(name, f"it is of type 2, with {tracks} separate pieces; save each as a file")
    try:
        return read_with_symusic(data, name)
    except BadMidiError as fast:
        # mido accepts some files that symusic rejects.
        if len(data) > MAX_MIDO_BYTES:
            raise
        try:
            return read_with_mido(data, name)
        except BadMidiError:
            raise fast from None


def read_with_symusic(data: bytes, name: str) -> Music:
    """Read with symusic: a track per chunk, channel and program; a note-off ends the oldest equal note."""
    try:
        score: Any = symusic.Score.from_midi(data)
    except Exception as error:  # the parser raises many types
        raise BadMidiError(name, _phrase(error)) from error
    notes: list[dict[str, Ints]] = []
    programs: list[int] = []
    pedals: list[tuple[Ints, Ints, Ints]] = []
    for track in score.tracks:
        arrays = track.notes.numpy()
        if len(arrays["time"]):
            notes.append({key: value.astype(np.int64) for key, value in arrays.items()})
            controls = track.controls.numpy()
            pedal = controls["number"] == SUSTAIN_PEDAL
            if pedal.any():
                time, down = controls["time"][pedal].astype(np.int64), controls["value"][pedal] >= PEDAL_DOWN
                pedals.append((time, down.astype(np.int64), np.full(len(time), len(programs))))
            programs.append(DRUMS if track.is_drum else int(track.program))
    tempi, meters = score.tempos.numpy(), score.time_signatures.numpy()

    def joined(key: str) -> Ints:
        return np.concatenate([part[key] for part in notes]) if notes else np.zeros(0, np.int64)

    start = joined("time")
    music = Music(
        ticks_per_quarter=int(score.ticks_per_quarter),
        start=start,
        end=start + joined("duration"),
        pitch=joined("pitch"),
        velocity=joined("velocity"),
        track=np.repeat(np.arange(len(notes)), [len(part["time"]) for part in notes]),
        programs=np.array(programs, np.int64),
        tempo_time=tempi["time"].astype(np.int64),
        tempo=tempi["mspq"].astype(np.int64),
        meter_time=meters["time"].astype(np.int64),
        meter_numerator=meters["numerator"].astype(np.int64),
        meter_denominator=meters["denominator"].astype(np.int64),
    )
    return _checked(_with_pedals(music, pedals), name)


def _with_pedals(music: Music, pedals: list[tuple[Ints, Ints, Ints]]) -> Music:
    """Return the music with pedal events, given as (time, down, track) of each track that has some."""
    if not pedals:
        return music
    time, down, track = (np.concatenate(column) for column in zip(*pedals, strict=True))
    return replace(music, pedal_time=time, pedal_down=down, pedal_track=track)


def read_with_mido(data: bytes, name: str) -> Music:
    """Read with mido, by the same rules as `read_with_symusic`: slower, and the reference in the tests."""
    try:
        file = mido.MidiFile(file=io.BytesIO(data))
    except Exception as error:  # some of mido's own errors derive from Exception directly
        raise BadMidiError(name, _phrase(error)) from error
    tempi: list[tuple[int, int]] = []
    meters: list[tuple[int, int, int]] = []
    notes: list[tuple[int, int, int, int, int]] = []
    programs: list[int] = []
    pedals: list[tuple[Ints, Ints, Ints]] = []
    for chunk in file.tracks:
        time = 0
        program: dict[int, int] = defaultdict(int)
        sounding: dict[tuple[int, int], deque[tuple[int, int, int]]] = defaultdict(deque)
        # (is drum, channel, program) → notes; sorted by this key, tracks are in the order of symusic.
        chunk_notes: dict[tuple[bool, int, int], list[tuple[int, int, int, int]]] = defaultdict(list)
        chunk_pedals: dict[tuple[bool, int, int], list[tuple[int, int]]] = defaultdict(list)
        for message in chunk:
            time += message.time
            if message.type == "set_tempo":
                tempi.append((time, message.tempo))
            elif message.type == "time_signature":
                meters.append((time, message.numerator, min(message.denominator, 2**15)))
            elif message.type == "program_change":
                program[message.channel] = message.program
            elif message.type == "control_change" and message.control == SUSTAIN_PEDAL:
                key = (message.channel == DRUM_CHANNEL, message.channel, program[message.channel])
                chunk_pedals[key].append((time, int(message.value >= PEDAL_DOWN)))
            elif message.type == "note_on" and message.velocity > 0:
                opened = (time, message.velocity, program[message.channel])
                sounding[message.channel, message.note].append(opened)
            elif message.type in ("note_on", "note_off") and sounding[message.channel, message.note]:
                start, velocity, instrument = sounding[message.channel, message.note].popleft()
                key = (message.channel == DRUM_CHANNEL, message.channel, instrument)
                chunk_notes[key].append((start, time, message.note, velocity))
        for key in sorted(chunk_notes):
            notes += [(*note, len(programs)) for note in chunk_notes[key]]
            if chunk_pedals[key]:
                times, down = np.array(chunk_pedals[key], np.int64).T
                pedals.append((times, down, np.full(len(times), len(programs))))
            programs.append(DRUMS if key[0] else key[2])
    music = Music.from_rows(int(file.ticks_per_beat), notes, programs, tempi, meters)
    return _checked(_with_pedals(music, pedals), name)


def _checked(music: Music, name: str) -> Music:
    """Reject unplayable values; all later code relies on these bounds."""
    if music.ticks_per_quarter <= 0:
        raise BadMidiError(name, "its times are in SMPTE frames, not in ticks per quarter note")
    if not music.notes:
        raise BadMidiError(name, "it has no notes")
    for label, values, low, high in (
        ("start", music.start, 0, MAX_TICK),
        ("end", music.end - music.start, 0, MAX_TICK),
        ("pitch", music.pitch, 0, 127),
        ("velocity", music.velocity, 1, 127),
        ("tempo time", music.tempo_time, 0, MAX_TICK),
        ("pedal time", music.pedal_time, 0, MAX_TICK),
        ("metre time", music.meter_time, 0, MAX_TICK),
    ):
        if len(values) and (int(values.min()) < low or int(values.max()) > high):
            raise BadMidiError(name, f"the {label} of an event is out of range")
    return music


def _phrase(error: Exception) -> str:
    text = (
        " ".join(str(error).split()).removeprefix("MiniMidi: ").removesuffix(": iostream error").rstrip(".!")
    )
    return f"it is damaged ({text or type(error).__name__})"


def write_midi(music: Music, texts: Iterable[str] = ()) -> bytes:
    """Return a type 1 file: a chunk with tempi, metres and `texts`, then one per track.

    Where notes of one track and pitch overlap, the earlier ends where the later begins.
    """
    file = mido.MidiFile(type=1, ticks_per_beat=music.ticks_per_quarter)
    conductor = [(0, mido.MetaMessage("text", text=text)) for text in texts]
    conductor += [
        (int(time), mido.MetaMessage("set_tempo", tempo=int(tempo)))
        for time, tempo in zip(music.tempo_time, music.tempo, strict=True)
    ]
    conductor += [
        (
            int(time),
            mido.MetaMessage("time_signature", numerator=int(numerator), denominator=int(denominator)),
        )
        for time, numerator, denominator in zip(
            music.meter_time, music.meter_numerator, music.meter_denominator, strict=True
        )
    ]
    file.tracks.append(_chunk(conductor))
    for track, (program, (port, channel)) in enumerate(
        zip(music.programs.tolist(), _channels(music.programs.tolist()), strict=True)
    ):
        instrument = 0 if program == DRUMS else program
        events: list[tuple[int, mido.Message | mido.MetaMessage]] = [
            *([(0, mido.MetaMessage("midi_port", port=port))] if port else []),
            (0, mido.Message("program_change", channel=channel, program=instrument)),
            *_note_events(music, track, channel),
        ]
        file.tracks.append(_chunk(events))
    out = io.BytesIO()
    file.save(file=out)
    return out.getvalue()


def _channels(programs: list[int]) -> list[tuple[int, int]]:
    """Return port and channel of each track.

    Up to 15 melodic tracks have a channel each. Of more, those of one program share a channel; programs after
    the fifteenth use further ports.
    """
    melodic = [program for program in programs if program != DRUMS]
    owners: list[int] = list(range(len(melodic)))
    if len(melodic) > len(MELODIC_CHANNELS):
        distinct = list(dict.fromkeys(melodic))
        owners = [distinct.index(program) for program in melodic]
    places = (divmod(owner, len(MELODIC_CHANNELS)) for owner in owners)
    melodic_places = ((port, MELODIC_CHANNELS[number]) for port, number in places)
    return [(0, DRUM_CHANNEL) if program == DRUMS else next(melodic_places) for program in programs]


def _note_events(music: Music, track: int, channel: int) -> list[tuple[int, mido.Message]]:
    rows = np.flatnonzero(music.track == track)
    rows = rows[np.lexsort((music.pitch[rows], music.start[rows]))]
    events: list[tuple[int, int, int, mido.Message]] = []
    next_start: dict[int, int] = {}
    for row in rows[::-1].tolist():
        start, end, pitch = int(music.start[row]), int(music.end[row]), int(music.pitch[row])
        following = next_start.get(pitch)
        next_start[pitch] = start
        if following is not None:
            end = min(end, following)
        if end <= start:  # a copy of the following note
            continue
        velocity = int(music.velocity[row])
        events.append(
            (start, 1, pitch, mido.Message("note_on", channel=channel, note=pitch, velocity=velocity))
        )
        events.append((end, 0, pitch, mido.Message("note_off", channel=channel, note=pitch, velocity=0)))
    # At the same time, note-offs come before note-ons.
    events.sort(key=lambda event: event[:3])
    return [(time, message) for time, _, _, message in events]


def _chunk(events: list[tuple[int, mido.Message | mido.MetaMessage]]) -> mido.MidiTrack:
    chunk, now = mido.MidiTrack(), 0
    for time, message in sorted(events, key=lambda event: event[0]):
        chunk.append(message.copy(time=time - now))
        now = time
    return chunk
