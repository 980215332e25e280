"""The tokens: names, ids, musical meaning, fingerprint and file format."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from aurl_trainer.data.config import FASTEST_TEMPO, SLOWEST_TEMPO, EncodingName, TokenizerConfig
from aurl_trainer.data.errors import DatasetError
from aurl_trainer.data.music import Ints
from aurl_trainer.schema import explain

ENCODING_VERSION: Final = 2
"""Incremented whenever the same music would become other tokens; datasets are then prepared again."""

PAD, BOS, EOS = 0, 1, 2  # in every encoding
BAR = 3  # in `remi`

# Kinds of tokens, in the order of their ids; each encoding has some of them.
KINDS: Final = (
    "Pad", "Bos", "Eos", "Bar", "Meter", "Position", "Tempo", "Track", "Drums", "Program",
    "Pitch", "Drum", "Velocity", "Duration", "On", "Off", "Shift", "Rest",
)  # fmt: skip
KIND: Final = {name: index for index, name in enumerate(KINDS)}
KINDS_OF: Final[dict[EncodingName, frozenset[str]]] = {
    "remi": frozenset(KINDS) - {"On", "Off", "Shift", "Rest"},
    "events": frozenset(
        ("Pad", "Bos", "Eos", "Tempo", "Track", "Drums", "Program", "Drum", "Velocity", "On", "Off", "Shift")
    ),
    "raster": frozenset(("Pad", "Bos", "Eos", "Pitch", "Rest")),
}
LONGEST_SHIFT_QUARTERS: Final = 4

METERS: Final = (
    *((n, 2) for n in (2, 3, 4)),
    *((n, 4) for n in range(1, 9)),
    *((n, 8) for n in range(1, 13)),
    *((n, 16) for n in (3, 5, 6, 7, 9, 12)),
)
FALLBACK_METER: Final = (4, 4)
COMMON = 120  # the most common tempo, in quarters per minute
PLAIN_VELOCITY = 80


class Vocabulary:
    """All tokens of one tokenizer configuration; equal configurations give equal vocabularies.

    A token is an id in [0, size). Tokens of one kind have adjacent ids: `first[kind]` is the first of them
    and `count[kind]` their number, which is 0 if the configuration excludes the kind.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        self.config = config
        resolution = config.positions_per_quarter
        pitches = [str(pitch) for pitch in range(config.lowest_pitch, config.highest_pitch + 1)]
        self.meters = [(n, d) for n, d in METERS if (4 * n * resolution) % d == 0]
        self.bar_lengths: Ints = np.array([4 * n * resolution // d for n, d in self.meters], np.int64)
        self.durations = _durations(resolution, config.max_duration_quarters)
        self.tempi: Ints = _tempi(config.tempo_bins)
        self.velocities = _velocities(config.velocity_bins)
        values: dict[str, list[str]] = {
            "Pad": [""],
            "Bos": [""],
            "Eos": [""],
            "Bar": [""],
            "Meter": [f"{n}/{d}" for n, d in self.meters],
            "Position": [str(p) for p in range(int(self.bar_lengths.max()))],
            "Tempo": [f"{60e6 / tempo:.1f}" for tempo in self.tempi.tolist()],
            "Track": [str(track) for track in range(config.tracks)],
            "Drums": [""] if config.drums else [],
            "Program": [str(program) for program in range(128)] if config.programs else [],
            "Pitch": pitches,
            "Drum": [str(drum) for drum in range(config.lowest_drum, config.highest_drum + 1)]
            if config.drums
            else [],
            "Velocity": [str(velocity) for velocity in self.velocities.tolist()],
            "Duration": [str(duration) for duration in self.durations.tolist()],
            "On": pitches,
            "Off": pitches,
            "Shift": [str(shift + 1) for shift in range(LONGEST_SHIFT_QUARTERS * resolution)],
            "Rest": [""],
        }
        for kind in frozenset(KINDS) - KINDS_OF[config.encoding]:
            values[kind] = []
        self.tokens = [f"{kind}_{value}" if value else kind for kind in KINDS for value in values[kind]]
        counts = [len(values[kind]) for kind in KINDS]
        self.count: dict[str, int] = dict(zip(KINDS, counts, strict=True))
        self.first: dict[str, int] = dict(zip(KINDS, np.cumsum([0, *counts[:-1]]).tolist(), strict=True))
        self.kind_of: Ints = np.repeat(np.arange(len(KINDS)), counts)
        """(size,) index into KINDS of each token."""
        self.value_of: Ints = np.concatenate([np.arange(count) for count in counts])
        """(size,) number of each token within its kind."""

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    @property
    def ticks_per_step(self) -> int:
        """Ticks per step in decoded music, about 480 per quarter note."""
        return max(1, round(480 / self.config.positions_per_quarter))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that defines the meaning of token ids."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()

    @property
    def meter_index(self) -> dict[tuple[int, int], int]:
        """(numerator, denominator) → number of the metre."""
        return {meter: index for index, meter in enumerate(self.meters)}

    @cached_property
    def drum_pitch(self) -> Ints:
        """(128,) MIDI pitch of a drum → pitch to write it as."""
        pitches = np.arange(128)
        for entry in self.config.drum_map:
            pitches[entry.pitch] = entry.to
        return pitches

    @cached_property
    def nearest_duration(self) -> Ints:
        """(longest + 1,) steps → number of the nearest duration, the shorter of two equally near ones."""
        steps = np.arange(int(self.durations[-1]) + 1)
        return np.asarray(np.abs(steps[:, None] - self.durations[None, :]).argmin(axis=1), np.int64)

    @cached_property
    def duration_within(self) -> Ints:
        """(longest + 1,) steps ≥ 1 → number of the longest duration that is not longer."""
        steps = np.arange(int(self.durations[-1]) + 1)
        return np.asarray(np.searchsorted(self.durations, steps, side="right") - 1, np.int64)

    def nearest_tempo(self, microseconds: Ints) -> Ints:
        """Map microseconds per quarter to the nearest tempo (in ratio). Requires tempo_bins > 0."""
        descending = self.tempi.astype(np.float64)
        edges = np.sqrt(descending[1:] * descending[:-1])[::-1]
        return np.asarray(len(self.tempi) - 1 - np.searchsorted(edges, microseconds), np.int64)

    def velocity_bin(self, velocity: Ints) -> Ints:
        """Map MIDI velocities 1–127 to the number of their level. Requires velocity_bins > 0."""
        return (velocity - 1) * self.config.velocity_bins // 127

    def to_json(self) -> str:
        """Return the text of `vocabulary.json`, which `load` reads."""
        return json.dumps(self._content() | {"fingerprint": self.fingerprint}, indent=1) + "\n"

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read a file written by `to_json`. Raises DatasetError if it is damaged or of another encoding."""
        try:
            content = json.loads(path.read_text())
            vocabulary = cls(TokenizerConfig.model_validate(content["tokenizer"]))
        except OSError as error:
            raise DatasetError(f"The vocabulary {path} cannot be read: {error.strerror}.") from error
        except ValidationError as error:
            raise DatasetError(
                f"The vocabulary {path} was written by another version: {explain(error, '')}"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"The vocabulary {path} is damaged; prepare the dataset again.") from error
        if vocabulary._content() | {"fingerprint": vocabulary.fingerprint} != content:
            raise DatasetError(
                f"The vocabulary {path} was written by another version of the tokenizer "
                f"(encoding {content.get('encoding')}, not {ENCODING_VERSION}); prepare the dataset again."
            )
        return vocabulary

    def _content(self) -> dict[str, Any]:
        return {
            "encoding": ENCODING_VERSION,
            "tokenizer": self.config.identity(),
            "tokens": self.tokens,
        }


def _durations(resolution: int, quarters: int) -> Ints:
    """Return (D,) ascending durations in steps: all up to two quarters, then increasingly coarse ones."""
    steps = set(range(1, 2 * resolution + 1))
    for low, high, coarse in ((2, 4, max(1, resolution // 4)), (4, 16, resolution), (16, 64, 4 * resolution)):
        steps |= set(range(low * resolution, high * resolution + 1, coarse))
    longest = quarters * resolution
    return np.array(sorted(step for step in steps | {longest} if step <= longest), np.int64)


def _tempi(bins: int) -> Ints:
    """Return microseconds per quarter of each level, slow to fast, even in ratio and including 120."""
    if bins == 0:
        return np.zeros(0, np.int64)
    ratio = (FASTEST_TEMPO / SLOWEST_TEMPO) ** (1 / max(1, bins - 1))
    below = round(np.log(COMMON / SLOWEST_TEMPO) / np.log(ratio)) if bins > 1 else 0
    per_minute = COMMON * ratio ** (np.arange(bins) - below)
    return np.asarray(np.round(60e6 / per_minute), np.int64)


def _velocities(bins: int) -> Ints:
    """Return the MIDI velocity of each level: the middle of its members."""
    levels = (np.arange(1, 128) - 1) * bins // 127
    return np.array([np.flatnonzero(levels == level).mean() + 1 for level in range(bins)], np.int64)
