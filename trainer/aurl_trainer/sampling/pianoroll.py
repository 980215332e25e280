"""A piece as a picture: time in bars to the right, pitch upwards, a colour per track, loud notes darker."""

from __future__ import annotations

import io
import itertools
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from aurl_trainer.data.music import DRUMS, Ints, Music

BARS_PER_ROW: Final = 16
MAX_ROWS: Final = 8
DOTS_PER_INCH: Final = 110
# The colour-blind safe palette of Okabe and Ito, ordered so that neighbours are distinct.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5D4A9C", "#8A7A22")
DRUM_COLOUR: Final = "#3A3A3A"
PAPER, INK, FAINT, ROW_SHADE = "#FFFFFF", "#2B2B33", "#D9D9E0", "#F4F4F8"
BLACK_KEYS: Final = (1, 3, 6, 8, 10)
FAMILIES: Final = (
    "piano", "chromatic percussion", "organ", "guitar", "bass", "strings", "ensemble", "brass",
    "reed", "pipe", "synth lead", "synth pad", "synth effects", "ethnic", "percussive", "sound effects",
)  # fmt: skip


def draw_piano_roll(music: Music, title: str) -> bytes:
    """Return a PNG of at most MAX_ROWS rows; the same music and title give the same bytes."""
    bars, beats = bar_lines(music)
    rows = min(MAX_ROWS, max(1, -(-(len(bars) - 1) // BARS_PER_ROW)))
    shown = bars[: rows * BARS_PER_ROW + 1]
    low, high = _pitch_range(music, int(shown[-1]))
    row_height = float(np.clip(0.055 * (high - low), 1.4, 4.0))
    widest = min(BARS_PER_ROW, len(shown) - 1)
    width = float(np.clip(1.2 + 0.85 * widest, 7.0, 15.0))
    height = rows * (row_height + 0.45) + 0.95

    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 8}):
        figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor=PAPER)
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
        figure.subplots_adjust(
            left=0.55 / width,
            right=1 - 0.2 / width,
            top=1 - 0.75 / height,
            bottom=0.4 / height,
            hspace=0.45 / row_height,
        )
        for row, axis in enumerate(axes):
            lines = shown[row * BARS_PER_ROW : (row + 1) * BARS_PER_ROW + 1]
            _draw_row(axis, music, lines, beats, row * BARS_PER_ROW + 1, widest, (low, high))
        cut = f" (first {len(shown) - 1} of {len(bars) - 1} bars)" if len(shown) < len(bars) else ""
        figure.text(
            0.55 / width,
            1 - 0.28 / height,
            title + cut,
            color=INK,
            fontsize=12,
            fontweight="bold",
            va="center",
        )
        figure.legend(
            handles=[Patch(color=colour, label=label) for label, colour in _labels(music)],
            loc="center left",
            bbox_to_anchor=(0.45 / width, 1 - 0.55 / height),
            ncols=8,
            frameon=False,
            handlelength=1.0,
            handleheight=0.8,
            labelcolor=INK,
        )
        out = io.BytesIO()
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def bar_lines(music: Music) -> tuple[Ints, Ints]:
    """Return the ticks of the bar lines, from 0 to the first after the last note, and of all beats."""
    end = int(music.end.max()) if music.notes else 1
    # The tokenizer changes the metre only at bar lines; in other music the bar before a change is cut.
    changes = dict(zip(music.meter_time.tolist(), range(len(music.meter_time)), strict=True))
    starts = sorted(time for time in changes if 0 < time < end)
    stretches = [0, *starts, None]
    bars: list[int] = []
    beats: list[int] = []
    for start, following in itertools.pairwise(stretches):
        assert start is not None
        index = changes.get(start)
        numerator = int(music.meter_numerator[index]) if index is not None else 4
        denominator = int(music.meter_denominator[index]) if index is not None else 4
        beat = max(1, 4 * music.ticks_per_quarter // denominator)
        bar = beat * numerator
        stop = following if following is not None else start + max(1, -(-(end - start) // bar)) * bar
        bars += range(start, stop, bar)
        beats += range(start, stop, beat)
    return np.array([*bars, stop], np.int64), np.array(beats, np.int64)


def _pitch_range(music: Music, end: int) -> tuple[int, int]:
    pitches = music.pitch[music.start < end]
    if not len(pitches):
        return 55, 77
    low, high = int(pitches.min()) - 2, int(pitches.max()) + 2
    missing = max(0, 20 - (high - low))
    return low - missing // 2, high + missing - missing // 2


def _draw_row(
    axis: Any,
    music: Music,
    lines: Ints,
    beats: Ints,
    first_bar: int,
    bars_wide: int,
    pitches: tuple[int, int],
) -> None:
    low, high = pitches
    begin, end = int(lines[0]), int(lines[-1])
    # An incomplete last row has the scale of the others.
    right = begin + (end - begin) * bars_wide // max(1, len(lines) - 1)
    for pitch in range(low, high + 1):
        if pitch % 12 in BLACK_KEYS:
            axis.axhspan(
                pitch - 0.5,
                pitch + 0.5,
                xmax=(end - begin) / (right - begin),
                color=ROW_SHADE,
                lw=0,
                zorder=0,
            )
    inside = beats[(beats >= begin) & (beats < end)]
    axis.vlines(inside, low - 0.5, high + 0.5, color=FAINT, lw=0.4, zorder=1)
    axis.vlines(lines, low - 0.5, high + 0.5, color="#A6A6B3", lw=0.9, zorder=1)
    # A note from the previous row continues at the left edge.
    for row in _notes_between(music, begin, end):
        axis.add_collection(row)
    axis.set_xlim(begin, right)
    axis.set_ylim(low - 0.5, high + 0.5)
    axis.set_xticks(lines[:-1], [str(first_bar + number) for number in range(len(lines) - 1)], color=INK)
    octaves = [pitch for pitch in range(low, high + 1) if pitch % 12 == 0]
    axis.set_yticks(octaves, [f"C{pitch // 12 - 1}" for pitch in octaves], color=INK)
    axis.tick_params(length=0, pad=3)
    for side in axis.spines.values():
        side.set_visible(False)


def _notes_between(music: Music, begin: int, end: int) -> list[PolyCollection]:
    found = []
    gap = music.ticks_per_quarter / 24  # separates repeated notes
    for track in range(len(music.programs)):
        rows = np.flatnonzero((music.track == track) & (music.start < end) & (music.end > begin))
        if not len(rows):
            continue
        left = np.maximum(music.start[rows], begin).astype(np.float64)
        right = np.minimum(music.end[rows], end).astype(np.float64)
        right = np.maximum(right - gap, left + gap)
        bottom, top = music.pitch[rows] - 0.42, music.pitch[rows] + 0.42
        corners = np.stack(
            [np.stack(pair, -1) for pair in ((left, bottom), (left, top), (right, top), (right, bottom))], 1
        )
        base = np.array(to_rgb(_colour(music, track)))
        strength = (0.45 + 0.55 * music.velocity[rows] / 127)[:, None]
        colours = base * strength + (1 - strength)
        found.append(
            PolyCollection(
                list(corners), facecolors=colours, edgecolors=[tuple(base * 0.75)], linewidths=0.4, zorder=2
            )
        )
    return found


def _colour(music: Music, track: int) -> str:
    if music.programs[track] == DRUMS:
        return DRUM_COLOUR
    return COLOURS[int((music.programs[:track] != DRUMS).sum()) % len(COLOURS)]


def _labels(music: Music) -> list[tuple[str, str]]:
    labels = []
    for track, program in enumerate(music.programs.tolist()):
        name = "drums" if program == DRUMS else FAMILIES[program // 8]
        labels.append((f"{track + 1} {name}", _colour(music, track)))
    return labels
