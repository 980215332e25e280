"""The beginning of a MIDI file as tokens, for a model to continue."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aurl_trainer.data.errors import BadMidiError
from aurl_trainer.data.midi import read_midi
from aurl_trainer.data.music import Ints, Music
from aurl_trainer.data.tokenizer import encode
from aurl_trainer.data.vocabulary import Vocabulary


def midi_prompt(data: bytes, name: str, vocabulary: Vocabulary, quarters: float | None = None) -> Ints:
    """Return the tokens (N,) of a MIDI file without Eos, or of its first `quarters` from the first note on.

    Raises BadMidiError if the file, called `name`, is not readable or has no notes for the vocabulary.
    """
    music = read_midi(data, name)
    if quarters is not None:
        music = _beginning(music, round(quarters * music.ticks_per_quarter))
    tokens = encode(music, vocabulary).tokens
    if not len(tokens):
        raise BadMidiError(name, "it has no notes that the tokenizer keeps")
    return tokens[:-1]


def _beginning(music: Music, ticks: int) -> Music:
    until = int(music.start.min()) + ticks
    kept = np.flatnonzero(music.start < until)
    return replace(
        music,
        start=music.start[kept],
        end=np.minimum(music.end[kept], until),
        pitch=music.pitch[kept],
        velocity=music.velocity[kept],
        track=music.track[kept],
    )
