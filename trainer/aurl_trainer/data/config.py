"""The `dataset` section of a job file: source, tokenizer, split, augmentation. Imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from aurl_trainer.schema import Config, Fraction, Seed, is_default

SLOWEST_TEMPO, FASTEST_TEMPO = 20, 300  # quarters per minute
EncodingName = Literal["remi", "events", "raster"]
VolumePath = Annotated[str, Field(min_length=1, max_length=4096)]
ShellPattern = Annotated[str, Field(min_length=1, max_length=1024)]
ColumnName = Annotated[str, Field(min_length=1, max_length=256)]
MidiValue = Annotated[int, Field(ge=0, le=127)]


class Music21CorpusConfig(Config):
    """Music that ships with the music21 package; nothing is downloaded."""

    collection: Literal["chorales", "composer"] = "chorales"
    """chorales: Bach's, in Riemenschneider's numbering. composer: all pieces of `composer`."""
    composer: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_]*$")] = ""
    """Directory of the music21 corpus, such as palestrina. Only for collection composer."""
    max_pieces: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Use only this many pieces, in the order of the collection. 0: all."""

    def _faults(self) -> Iterator[str]:
        if (self.collection == "composer") != bool(self.composer):
            yield "composer must be set with collection: composer, and only then"


class DirectoryConfig(Config):
    """MIDI files in a directory and its subdirectories."""

    path: VolumePath
    """Directory: absolute, or relative to the root of the job's volume."""
    pattern: ShellPattern = "*.mid*"
    """Files to use: a case-insensitive shell pattern on the path below `path`; `*` also matches `/`."""


class ArchiveConfig(Config):
    """A zip or tar archive of MIDI files on the web, unpacked once onto the job's volume."""

    url: Annotated[str, Field(max_length=4096, pattern=r"^https?://[^\s]+$")]
    """URL of the archive: .zip, or .tar, uncompressed or with gzip, bzip2 or xz."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the archive in lower-case hexadecimal; a mismatch is rejected."""
    pattern: ShellPattern = "*.mid*"
    """Files to use: a case-insensitive shell pattern on the path in the archive; `*` also matches `/`."""


class TokensConfig(Config):
    """A dataset that is already tokenized, with its own split."""

    path: VolumePath
    """Directory with train.bin, train.index, … and vocabulary.json: absolute, or relative to the root of the
    job's volume. The vocabulary must match `tokenizer`."""


class RasterConfig(Config):
    """A JSON file of piano-roll pieces with its own split, the format of the chorale benchmarks."""

    path: VolumePath
    """File of {train, valid, test}: each a list of pieces, each a list of time steps, each a list of one MIDI
    pitch per voice (-1: silence). Absolute, or relative to the job's volume."""
    steps_per_quarter: Annotated[int, Field(ge=1, le=96)] = 4
    """Time steps per quarter note in the file."""


class SourceConfig(Config):
    """Source of the music: exactly one of the keys."""

    music21_corpus: Music21CorpusConfig | None = None
    """Music that ships with the music21 package."""
    directory: DirectoryConfig | None = None
    """MIDI files in a directory of the job's volume."""
    archive: ArchiveConfig | None = None
    """An archive of MIDI files on the web."""
    tokens: TokensConfig | None = None
    """A dataset that is already tokenized."""
    raster: RasterConfig | None = None
    """A JSON file of piano rolls."""

    @property
    def has_split(self) -> bool:
        """True if the source comes with its own split."""
        return self.tokens is not None or self.raster is not None

    def _faults(self) -> Iterator[str]:
        given = [key for key in type(self).model_fields if getattr(self, key) is not None]
        if len(given) != 1:
            known = ", ".join(str(field.alias) for field in type(self).model_fields.values())
            yield f"set exactly one of {known}"


class DrumMappingConfig(Config):
    """A drum sound to write as another one."""

    pitch: MidiValue
    """MIDI pitch in the file."""
    to: MidiValue
    """MIDI pitch to use instead."""


class TokenizerConfig(Config):
    """Encoding of music as tokens, and the resolution of time, tracks, pitch and loudness."""

    encoding: EncodingName = "remi"
    """remi: bars, positions and notes with durations. events: a stream of note-on, note-off and time-shift
    events without bars, as in MIDI. raster: only the pitch of each voice at each time step, for chorales."""
    positions_per_quarter: Annotated[int, Field(ge=1, le=96)] = 12
    """Time steps per quarter note. 4: 16th notes; 12: also 8th triplets; 24: also 32nd notes."""
    max_duration_quarters: Annotated[int, Field(ge=1, le=64)] = 16
    """Longest note in quarter notes; longer notes are shortened to it."""
    tracks: Annotated[int, Field(ge=1, le=64)] = 16
    """Melodic tracks (with encoding raster: voices). Notes of further tracks are merged into the last one."""
    programs: bool = True
    """Keep each track's General MIDI program. false: all become piano."""
    drums: bool = True
    """Keep drums, merged into one track. false: drop them."""
    velocity_bins: MidiValue = 32
    """Velocity levels. 0: no velocity tokens; every note has velocity 80."""
    tempo_bins: Annotated[int, Field(ge=0, le=256)] = 32
    """Tempo levels between about 20 and 300 bpm. 0: no tempo tokens; the tempo is 120 bpm."""
    lowest_pitch: MidiValue = 21
    """Lowest MIDI pitch to keep (21: lowest key of a piano)."""
    highest_pitch: MidiValue = 108
    """Highest MIDI pitch to keep (108: highest key of a piano)."""
    lowest_drum: MidiValue = 27
    """Lowest drum sound to keep, as a MIDI pitch. 27 to 87 is the percussion map of General MIDI level 2."""
    highest_drum: MidiValue = 87
    """Highest drum sound to keep, as a MIDI pitch."""
    drum_map: Annotated[tuple[DrumMappingConfig, ...], Field(max_length=128)] = ()
    """Drum sounds to write as others, before the range applies: `{pitch: 22, to: 42}` keeps the edge of an
    electronic hi-hat as a closed one."""

    sustain_pedal: bool = False
    """Extend notes that end while the sustain pedal is down until it is released, or the same note sounds
    again. For piano performances, in which lengths otherwise end with the key."""

    def identity(self) -> dict[str, Any]:
        """Return the settings that define the tokens, for fingerprints.

        Fields that did not exist from the beginning are left out at their defaults, so that datasets and
        models from before keep their fingerprints.
        """
        later = ("lowest_drum", "highest_drum", "drum_map", "sustain_pedal")
        unset = {name for name in later if is_default(self, name)}
        return self.model_dump(mode="json", by_alias=True, exclude=unset)

    def _faults(self) -> Iterator[str]:
        if self.encoding == "raster":
            because = "encoding: raster, which holds pitches alone"
            yield from self.unused(because, "programs", "drums", "velocity_bins", "tempo_bins")
        if self.encoding == "raster" or not self.drums:
            because = "drums: false" if not self.drums else "encoding: raster"
            yield from self.unused(because, "lowest_drum", "highest_drum", "drum_map")
        if self.lowest_pitch > self.highest_pitch:
            yield f"lowestPitch {self.lowest_pitch} is above highestPitch {self.highest_pitch}; swap them"
        if self.lowest_drum > self.highest_drum:
            yield f"lowestDrum {self.lowest_drum} is above highestDrum {self.highest_drum}; swap them"
        for entry in self.drum_map:
            if not self.lowest_drum <= entry.to <= self.highest_drum:
                yield (
                    f"drumMap maps {entry.pitch} to {entry.to}, outside {self.lowest_drum} to "
                    f"{self.highest_drum}: change it, lowestDrum or highestDrum"
                )
        if len({entry.pitch for entry in self.drum_map}) < len(self.drum_map):
            yield "drumMap maps a pitch twice: remove one of the entries"


class SplitTableConfig(Config):
    """A CSV file with a header row that gives each file its split or its group."""

    path: VolumePath
    """CSV file: absolute, or relative to the root of the job's volume."""
    file_column: ColumnName
    """Column with the file's path below the source's directory, such as midi_filename. Every file needs a
    row."""
    split_column: ColumnName | None = None
    """Column with the file's split: train, validation (or valid, val, dev) or test. Unset: by the
    fractions."""
    group_column: ColumnName | None = None
    """Column with the file's group, such as the composition, which is never divided between splits.
    Unset: no groups."""

    def _faults(self) -> Iterator[str]:
        if (self.split_column is None) == (self.group_column is None):
            yield "set exactly one of splitColumn, groupColumn"


class SplitConfig(Config):
    """Held-out pieces. A piece belongs to exactly one split; duplicates are dropped."""

    validation_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Fraction of the pieces for validation; at least one piece unless 0."""
    test_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Fraction of the pieces held out for testing; at least one piece unless 0."""
    seed: Seed = 0
    """Seed of the split, which depends on the music, not on file names; with groups, on their names."""
    group_pattern: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Keep files in one split if this Python regular expression finds the same text in their paths below the
    source's directory: its first group, or the whole match. `.*/` groups by folder. A file without a match is
    a group of its own. Unset: each file is."""
    table: SplitTableConfig | None = None
    """Splits or groups from a CSV file, such as those published with MAESTRO and Groove."""

    def _faults(self) -> Iterator[str]:
        if self.table is not None:
            yield from self.unused("split.table", "group_pattern")
            if self.table.split_column is not None:
                yield from self.unused(
                    "split.table.splitColumn", "validation_fraction", "test_fraction", "seed"
                )
        if self.group_pattern is not None:
            try:
                re.compile(self.group_pattern)
            except re.error as error:
                yield f"groupPattern is not a regular expression ({error}): correct it"


class AugmentationConfig(Config):
    """Random variation of training samples each time they are read; never of held-out pieces. 0: off."""

    transpose_semitones: Annotated[int, Field(ge=0, le=24)] = 0
    """Transpose by up to this many semitones up or down; drums are not transposed."""
    stretch: Fraction = 0.0
    """Change the tempo by up to this fraction (0.1: 10 %), in whole levels of tempoBins."""
    velocity: Annotated[int, Field(ge=0, le=64)] = 0
    """Change the velocity by up to this much of MIDI's 127, in whole levels of velocityBins."""

    def stretch_levels(self, tokenizer: TokenizerConfig) -> int:
        """Return the largest tempo change in levels of the tokenizer, which are equally spaced in ratio."""
        per_level = math.log(FASTEST_TEMPO / SLOWEST_TEMPO) / max(1, tokenizer.tempo_bins - 1)
        return round(math.log1p(self.stretch) / per_level) if tokenizer.tempo_bins > 1 else 0

    def velocity_levels(self, tokenizer: TokenizerConfig) -> int:
        """Return the largest velocity change in levels of the tokenizer."""
        return round(self.velocity * tokenizer.velocity_bins / 127)


class DatasetConfig(Config):
    """Music source, tokenizer, split and augmentation."""

    source: SourceConfig
    tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig)
    """Encoding of music as tokens."""
    split: SplitConfig = Field(default_factory=SplitConfig)
    """Held-out pieces. Not for the sources tokens and raster, which have their own split."""
    augmentation: AugmentationConfig = Field(default_factory=AugmentationConfig)
    """Random variation of training samples."""
    window_overlap: Annotated[float, Field(ge=0, le=0.95)] = 0.0
    """Overlap of consecutive windows of contextLength tokens, as a fraction; at 0.5 an epoch sees every token
    twice. Window offsets differ from epoch to epoch in any case."""
    workers: Annotated[int, Field(ge=0, le=256)] = 0
    """Processes that prepare the dataset. 0: one per CPU that the container may use."""

    def _faults(self) -> Iterator[str]:
        if self.source.has_split:
            yield from self.split.unused("a source that has its own split", *SplitConfig.model_fields)
        tokenizer, wanted = self.tokenizer, self.augmentation
        raster = tokenizer.encoding == "raster"
        if wanted.velocity and (raster or not wanted.velocity_levels(tokenizer)):
            yield (
                f"augmentation.velocity {wanted.velocity} is less than one of the tokenizer's loudness "
                "levels: raise it or tokenizer.velocityBins, or leave it out"
            )
        if wanted.stretch and (raster or not wanted.stretch_levels(tokenizer)):
            yield (
                f"augmentation.stretch {wanted.stretch} is less than half of one of the tokenizer's tempo "
                "levels: raise it or tokenizer.tempoBins, or leave it out"
            )
