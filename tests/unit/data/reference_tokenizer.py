"""The test oracle: the encoding `remi` in plain Python over mido messages, written from its description."""

from __future__ import annotations

import io
import math
from bisect import bisect_right
from collections import defaultdict

import mido

from aurl_trainer.data.vocabulary import Vocabulary

Note = tuple[int, int, int, int, int]  # start, slot, pitch, velocity, end; times in steps


def reference_tokens(data: bytes, vocabulary: Vocabulary) -> list[str]:
    """Return the token names of a file; empty without usable notes."""
    config = vocabulary.config
    file = mido.MidiFile(file=io.BytesIO(data))
    tracks: list[tuple[bool, int, list[tuple[int, int, int, int]]]] = []
    tempi, meters = [(0, 500_000)], []

    def steps(tick: int) -> int:
        per_beat: int = file.ticks_per_beat
        return math.floor(tick * config.positions_per_quarter / per_beat + 0.5)

    for chunk in file.tracks:
        now, program, heard, found = 0, defaultdict(int), defaultdict(list), defaultdict(list)
        for message in chunk:
            now += message.time
            if message.type == "set_tempo":
                tempi.append((now, message.tempo))
            elif message.type == "time_signature":
                meters.append((now, f"{message.numerator}/{message.denominator}"))
            elif message.type == "program_change":
                program[message.channel] = message.program
            elif message.type == "note_on" and message.velocity:
                heard[message.channel, message.note].append((now, message.velocity, program[message.channel]))
            elif message.type in ("note_on", "note_off") and heard[message.channel, message.note]:
                start, velocity, instrument = heard[message.channel, message.note].pop(0)
                key = (message.channel == 9, message.channel, instrument)
                found[key].append((steps(start), steps(now), message.note, velocity))
        tracks += [(drums, instrument, found[drums, c, instrument]) for drums, c, instrument in sorted(found)]

    notes: list[Note] = []
    programs: list[int] = []
    for drums, program_number, events in tracks:
        low, high = (27, 87) if drums else (config.lowest_pitch, config.highest_pitch)
        kept = [event for event in events if low <= event[2] <= high]
        if not kept or (drums and not config.drums):
            continue
        if drums:
            slot = config.tracks
        else:
            slot = min(len(programs), config.tracks - 1)
            if len(programs) < config.tracks:
                programs.append(program_number)
        notes += [(start, slot, pitch, velocity, end) for start, end, pitch, velocity in kept]
    if not notes:
        return []

    longest = int(vocabulary.durations[-1])
    durations = vocabulary.durations.tolist()

    def nearest(length: int) -> int:
        length = max(1, min(length, longest))
        return min((int(d) for d in durations), key=lambda d: (abs(d - length), d))

    best: dict[tuple[int, int, int], tuple[int, int]] = {}
    for start, slot, pitch, velocity, end in notes:
        candidate = (nearest(end - start), velocity)
        best[start, slot, pitch] = max(best.get((start, slot, pitch), (0, 0)), candidate)
    final = []
    for start, slot, pitch in sorted(best):
        duration, velocity = best[start, slot, pitch]
        following = min((s for s, k, p in best if (k, p) == (slot, pitch) and s > start), default=None)
        if following is not None and start + duration > following:
            duration = max(d for d in durations if d <= following - start)
        final.append((start, slot, pitch, velocity, duration))

    # Walk from bar to bar, applying changes of metre at bar lines.
    known = {
        f"{n}/{d}": int(length)
        for (n, d), length in zip(vocabulary.meters, vocabulary.bar_lengths, strict=True)
    }
    changes = [
        (steps(tick), name if name in known else "4/4") for tick, name in sorted(meters, key=lambda m: m[0])
    ]
    bars: list[tuple[int, str]] = []
    begin, meter = 0, "4/4"
    while begin <= final[-1][0]:
        while changes and changes[0][0] <= begin:
            meter = changes.pop(0)[1]
        bars.append((begin, meter))
        begin += known[meter]
    begins = [begin for begin, _ in bars]
    with_notes = {bisect_right(begins, note[0]) - 1 for note in final}
    written = [
        i
        for i in range(min(with_notes), len(bars))
        if any(j in with_notes for j in range(i, min(i + 9, len(bars))))
    ]

    tempo_at: dict[tuple[int, int], str] = {}
    if config.tempo_bins:
        levels = vocabulary.tempi.tolist()
        names = vocabulary.tokens[vocabulary.first["Tempo"] :]
        for tick, tempo in sorted(tempi, key=lambda t: t[0]):
            step = steps(tick)
            if step > final[-1][0]:
                continue
            bar = bisect_right(begins, step) - 1
            kept_bar = next(i for i in written if i >= bar)
            place = step - bars[bar][0] if kept_bar == bar else 0
            level = min(range(len(levels)), key=lambda i: abs(math.log(levels[i] / tempo)))
            tempo_at[kept_bar, place] = names[level]

    out = ["Bos"]
    for number, program_number in enumerate(programs):
        out += [f"Track_{number}"] + ([f"Program_{program_number}"] if config.programs else [])
    if any(note[1] == config.tracks for note in final):
        out.append("Drums")
    said_meter = said_tempo = None
    for index in written:
        begin, meter = bars[index]
        out += ["Bar"] + ([f"Meter_{meter}"] if meter != said_meter else [])
        said_meter, said_slot = meter, None
        for place in range(known[meter]):
            here = [note for note in final if note[0] == begin + place]
            tempo_name = tempo_at.get((index, place), said_tempo)
            if not here and tempo_name == said_tempo:
                continue
            out.append(f"Position_{place}")
            if tempo_name != said_tempo:
                assert tempo_name is not None
                out.append(tempo_name)
                said_tempo = tempo_name
            for _, slot, pitch, velocity, duration in here:
                drums = slot == config.tracks
                if slot != said_slot:
                    out.append("Drums" if drums else f"Track_{slot}")
                    said_slot = slot
                out.append(f"{'Drum' if drums else 'Pitch'}_{pitch}")
                if config.velocity_bins:
                    level = (velocity - 1) * config.velocity_bins // 127
                    out.append(vocabulary.tokens[vocabulary.first["Velocity"] + level])
                out.append(f"Duration_{duration}")
    return [*out, "Eos"]
