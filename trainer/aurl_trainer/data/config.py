"""The `dataset` part of a job file: the music, its encoding, its split. No torch."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from aurl_trainer.schema import Config, refuse_without_effect

SLOWEST_TEMPO, FASTEST_TEMPO = 20, 300  # quarters per minute
EncodingName = Literal["remi", "events", "raster"]


class Music21CorpusConfig(Config):
    """Real music that comes with the music21 package; nothing is downloaded."""

    collection: Literal["chorales", "composer"] = Field(
        default="chorales",
        description="chorales: Bach's, as Riemenschneider numbers them; composer: all of `composer`.",
    )
    composer: str = Field(
        default="",
        max_length=64,
        pattern=r"^[A-Za-z0-9_]*$",
        description="Folder in the music21 corpus, such as palestrina; only with collection: composer.",
    )
    max_pieces: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="Use only the first pieces, in the order of the collection. 0: all of them.",
    )

    @model_validator(mode="after")
    def _composer_fits_collection(self) -> Music21CorpusConfig:
        if (self.collection == "composer") != bool(self.composer):
            raise ValueError("composer must be set with collection: composer, and only then")
        return self


class DirectoryConfig(Config):
    """MIDI files in a directory and all directories under it."""

    path: str = Field(
        min_length=1,
        max_length=4096,
        description="The directory: absolute, or relative to the root of the job's volume.",
    )
    pattern: str = Field(
        default="*.mid*",
        min_length=1,
        max_length=1024,
        description="Which files: a shell pattern on the path below `path`, case ignored; * also matches /.",
    )


class ArchiveConfig(Config):
    """A zip or tar archive of MIDI files on the web; it is unpacked once onto the volume of the job."""

    url: str = Field(
        max_length=4096,
        pattern=r"^https?://[^\s]+$",
        description="Where the archive is: .zip, or .tar plain or packed with gzip, bzip2 or xz.",
    )
    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256 of the archive in lower-case hexadecimal; what does not match is not used.",
    )
    pattern: str = Field(
        default="*.mid*",
        min_length=1,
        max_length=1024,
        description="Which files: a shell pattern on the path inside, case ignored; * also matches /.",
    )


class TokensConfig(Config):
    """Tokens that are ready: a prepared dataset, with its own split."""

    path: str = Field(
        min_length=1,
        max_length=4096,
        description="Directory of train.bin, train.index, … and vocabulary.json, which must be of the same "
        "tokenizer: absolute, or relative to the root of the job's volume.",
    )


class RasterConfig(Config):
    """A JSON file of pieces as rasters, with its own split: the form of the chorale benchmarks."""

    path: str = Field(
        min_length=1,
        max_length=4096,
        description="A file of {train, valid, test}, each a list of pieces, each a list of time steps, each "
        "a list of one MIDI pitch per voice (-1: silence): absolute, or relative to the job's volume.",
    )
    steps_per_quarter: int = Field(
        default=4, ge=1, le=96, description="Time steps of the file per quarter note."
    )


class SourceConfig(Config):
    """Where the music comes from: exactly one of the keys."""

    music21_corpus: Music21CorpusConfig | None = Field(
        default=None, description="Real music that comes with the music21 package."
    )
    directory: DirectoryConfig | None = Field(
        default=None, description="MIDI files in a directory of the volume."
    )

    archive: ArchiveConfig | None = Field(default=None, description="An archive of MIDI files on the web.")
    tokens: TokensConfig | None = Field(default=None, description="A dataset that is prepared already.")
    raster: RasterConfig | None = Field(default=None, description="A JSON file of rasters.")

    @property
    def has_split(self) -> bool:
        """Whether the source says itself which pieces are held out."""
        return self.tokens is not None or self.raster is not None

    @model_validator(mode="after")
    def _exactly_one(self) -> SourceConfig:
        given = [key for key in type(self).model_fields if getattr(self, key) is not None]
        if len(given) != 1:
            known = ", ".join(str(field.alias) for field in type(self).model_fields.values())
            raise ValueError(f"set exactly one of {known}")
        return self


class TokenizerConfig(Config):
    """How music becomes tokens: the encoding, and how finely it tells times, tracks, pitches and loudness."""

    encoding: EncodingName = Field(
        default="remi",
        description="remi: bars, positions and notes with their durations; events: a stream of notes that "
        "begin and end and of time that passes, without bars, as MIDI has it; raster: the pitch of each "
        "voice at each time step and nothing else, for chorales.",
    )
    positions_per_quarter: int = Field(
        default=12,
        ge=1,
        le=96,
        description="Time steps per quarter note. 4: 16th notes; 12: 8th triplets too; 24: 32nd notes too.",
    )
    max_duration_quarters: int = Field(
        default=16, ge=1, le=64, description="Longest note in quarter notes; longer ones are shortened to it."
    )
    tracks: int = Field(
        default=16,
        ge=1,
        le=64,
        description="Melodic tracks told apart, with encoding: raster the voices; notes of further ones go "
        "into the last.",
    )
    programs: bool = Field(
        default=True, description="Keep each track's General MIDI instrument; false: all become piano."
    )
    drums: bool = Field(default=True, description="Keep drums, merged into one track; false: drop them.")
    velocity_bins: int = Field(
        default=32,
        ge=0,
        le=127,
        description="Number of loudness levels. 0: no velocity tokens, every note sounds at 80 of 127.",
    )
    tempo_bins: int = Field(
        default=32,
        ge=0,
        le=256,
        description="Number of tempo levels from about 20 to 300 per minute. 0: no tempo tokens, 120.",
    )
    lowest_pitch: int = Field(
        default=21, ge=0, le=127, description="Lowest MIDI pitch that is kept (21: lowest key of a piano)."
    )
    highest_pitch: int = Field(
        default=108, ge=0, le=127, description="Highest MIDI pitch that is kept (108: top key of a piano)."
    )

    @model_validator(mode="after")
    def _raster_has_pitches_alone(self) -> TokenizerConfig:
        if self.encoding == "raster":
            names = ("programs", "drums", "velocity_bins", "tempo_bins")
            refuse_without_effect(self, names, "encoding: raster, which holds pitches alone")
        return self

    @model_validator(mode="after")
    def _pitches_in_order(self) -> TokenizerConfig:
        if self.lowest_pitch > self.highest_pitch:
            raise ValueError(
                f"lowestPitch {self.lowest_pitch} is above highestPitch {self.highest_pitch}; swap them"
            )
        return self


class SplitConfig(Config):
    """Which pieces are held out. A piece is wholly in one split; copies of it are dropped."""

    validation_fraction: float = Field(
        default=0.1, ge=0, le=0.5, description="Share of the pieces for validation; at least one unless 0."
    )
    test_fraction: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="Share of the pieces that training never looks at; at least one unless 0.",
    )
    seed: int = Field(
        default=0, ge=0, lt=2**31, description="Seed of the choice, which depends on the music, not on names."
    )


class AugmentationConfig(Config):
    """How training samples are varied each time they are read; held-out pieces never are. 0: not at all."""

    transpose_semitones: int = Field(
        default=0, ge=0, le=24, description="Up or down by at most so many semitones; drums stay."
    )
    stretch: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Faster or slower by at most this share (0.1: 10 %), in whole levels of tempoBins.",
    )
    velocity: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Louder or softer by at most so much of MIDI's 127, in whole levels of velocityBins.",
    )

    def stretch_levels(self, tokenizer: TokenizerConfig) -> int:
        """The most that the tempo changes, in levels of the tokenizer, which are even in ratio."""
        per_level = math.log(FASTEST_TEMPO / SLOWEST_TEMPO) / max(1, tokenizer.tempo_bins - 1)
        return round(math.log1p(self.stretch) / per_level) if tokenizer.tempo_bins > 1 else 0

    def velocity_levels(self, tokenizer: TokenizerConfig) -> int:
        """The most that the loudness changes, in levels of the tokenizer."""
        return round(self.velocity * tokenizer.velocity_bins / 127)


class DatasetConfig(Config):
    """Where the music comes from and how it becomes tokens."""

    source: SourceConfig = Field(description="Where the music comes from: exactly one of the keys.")
    tokenizer: TokenizerConfig = Field(
        default_factory=TokenizerConfig, description="How music becomes tokens."
    )
    split: SplitConfig = Field(
        default_factory=SplitConfig,
        description="Which pieces are held out; the sources tokens and raster say so themselves.",
    )
    augmentation: AugmentationConfig = Field(
        default_factory=AugmentationConfig, description="How training samples are varied."
    )
    window_overlap: float = Field(
        default=0.0,
        ge=0,
        le=0.95,
        description="Share of a window of contextLength tokens that the next one begins with: at 0.5 an "
        "epoch sees every token twice. Each epoch cuts its windows elsewhere in any case.",
    )
    workers: int = Field(
        default=0, ge=0, le=256, description="Processes that prepare the dataset. 0: one per CPU."
    )

    @model_validator(mode="after")
    def _split_has_an_effect(self) -> DatasetConfig:
        if self.source.has_split:
            refuse_without_effect(self.split, SplitConfig.model_fields, "a source that has its own split")
        return self

    @model_validator(mode="after")
    def _augmentation_has_an_effect(self) -> DatasetConfig:
        tokenizer, wanted = self.tokenizer, self.augmentation
        raster = tokenizer.encoding == "raster"
        if wanted.velocity and (raster or not wanted.velocity_levels(tokenizer)):
            raise ValueError(
                f"augmentation.velocity {wanted.velocity} is less than one of the tokenizer's loudness "
                "levels: raise it or tokenizer.velocityBins, or leave it out"
            )
        if wanted.stretch and (raster or not wanted.stretch_levels(tokenizer)):
            raise ValueError(
                f"augmentation.stretch {wanted.stretch} is less than half of one of the tokenizer's tempo "
                "levels: raise it or tokenizer.tempoBins, or leave it out"
            )
        return self
