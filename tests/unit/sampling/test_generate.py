"""Sampling from real models: pieces are always readable, and equal for equal seeds."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
import torch
from torch import Tensor

from aurl_trainer.data.config import TokenizerConfig
from aurl_trainer.data.errors import BadMidiError
from aurl_trainer.data.grammar import Grammar, first_fault
from aurl_trainer.data.midi import read_with_mido, read_with_symusic, write_midi
from aurl_trainer.data.tokenizer import context_starts, decode, encode
from aurl_trainer.data.vocabulary import BAR, EOS, Vocabulary
from aurl_trainer.model.config import ModelConfig
from aurl_trainer.model.transformer import Transformer
from aurl_trainer.sampling.api import sample_to_files
from aurl_trainer.sampling.config import SamplingConfig
from aurl_trainer.sampling.generate import generate
from aurl_trainer.sampling.pianoroll import bar_lines, draw_piano_roll
from aurl_trainer.sampling.prompt import midi_prompt
from unit.data.wild_midi import tune

VOCABULARIES = {
    "full": Vocabulary(TokenizerConfig()),
    "bare": Vocabulary(
        TokenizerConfig(
            positions_per_quarter=4, tracks=4, programs=False, drums=False, velocity_bins=0, tempo_bins=0
        )
    ),
    "events": Vocabulary(TokenizerConfig(encoding="events", tracks=3, max_duration_quarters=2)),
    "raster": Vocabulary(TokenizerConfig(encoding="raster", positions_per_quarter=4, tracks=4)),
}


@pytest.fixture(scope="module")
def model() -> Iterator[Transformer]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more threads only slow down so small a model
    made = Transformer(ModelConfig(d_model=32, layers=2, heads=2, dropout=0.1), VOCABULARIES["full"].size)
    made.initialise(1)
    with torch.no_grad():  # far from uniform, so that filters and rounding matter
        for parameter in made.parameters():
            parameter.mul_(4)
    yield made
    torch.set_num_threads(threads)


class Recorder:
    """A wrapper that records the logits that sampling used."""

    def __init__(self, model: Transformer) -> None:
        self.model, self.logits, self.seen = model, list[Tensor](), list[Tensor]()

    def __call__(self, tokens: Tensor, /, *, cache: Any = None) -> Tensor:
        logits: Tensor = self.model(tokens, cache=cache)
        self.logits.append(logits[:, -1])
        self.seen.append(tokens)
        return logits

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


@pytest.mark.parametrize("name", VOCABULARIES)
def test_random_logits_under_the_grammar_always_give_readable_music(name: str) -> None:
    vocabulary, rng = VOCABULARIES[name], np.random.default_rng(7)
    grammar = Grammar(vocabulary, 24)
    steps = []
    for _ in range(260):
        mask = grammar.mask()
        assert mask.any(axis=1).all()
        # Sharp logits, so that some kinds of token are frequent and others rare.
        logits = np.where(
            mask, rng.normal(0, 4, mask.shape) + rng.normal(0, 2, (1, vocabulary.size)), -np.inf
        )
        # Pieces should not all end at the same time.
        logits[:, EOS] -= 6
        steps.append(logits.argmax(axis=1))
        grammar.push(steps[-1])
    for tokens in np.stack(steps, axis=1):
        assert first_fault(tokens, vocabulary) == -1
        data = write_midi(decode(tokens, vocabulary))
        fast, slow = read_with_symusic(data, "sample"), read_with_mido(data, "sample")
        np.testing.assert_array_equal(encode(fast, vocabulary).tokens, encode(slow, vocabulary).tokens)
        assert _hanging(data) == 0


def _hanging(data: bytes) -> int:
    sounding: set[tuple[int, int]] = set()
    for message in mido.MidiFile(file=io.BytesIO(data)):
        if message.type == "note_on":
            sounding.add((message.channel, message.note))
        elif message.type == "note_off":
            sounding.discard((message.channel, message.note))
    return len(sounding)


def test_cached_logits_equal_those_of_the_whole_prefix(model: Transformer) -> None:
    recorder = Recorder(model)
    config = SamplingConfig(count=3, max_tokens=60, seed=5, grammar=False)
    pieces = generate(recorder, VOCABULARIES["full"], config, 64)
    model.eval()
    for row, piece in enumerate(pieces):
        with torch.no_grad():
            whole = model(torch.from_numpy(piece[None]))[0]
        for step in range(len(piece) - 1):
            torch.testing.assert_close(recorder.logits[step][row], whole[step], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["full", "events", "raster"])
def test_a_full_context_slides_to_a_bar_and_the_model_never_sees_more(name: str) -> None:
    vocabulary = VOCABULARIES[name]
    model = Transformer(ModelConfig(d_model=16, layers=1, heads=2), vocabulary.size)
    model.initialise(3)
    with torch.no_grad():
        model.embedding.weight[[BAR, vocabulary.first["Shift"] - 1]] *= 8  # for frequent bars
    recorder = Recorder(model)
    config = SamplingConfig(count=3, max_tokens=130, seed=5, grammar=name != "events")
    pieces = generate(recorder, vocabulary, config, 32)
    assert max(tokens.shape[1] for tokens in recorder.seen) <= 32
    model.eval()
    for piece in pieces:
        begin = 0
        for filled in range(1, len(piece)):
            if filled - begin > 32:
                points = context_starts(piece[:filled], vocabulary)
                later = points[points >= filled - 16]
                begin = int(later[0]) if len(later) else filled - 16
        with torch.no_grad():
            expected = model(torch.from_numpy(piece[None, begin:-1]))[0, -1]
        found = torch.stack([rows for logits in recorder.logits for rows in logits])
        assert float((found - expected).abs().amax(dim=1).min()) < 1e-4
    if name == "raster":
        assert begin % 4 == 1


def test_a_prompt_longer_than_the_context_is_continued_from_its_last_bars(model: Transformer) -> None:
    vocabulary = VOCABULARIES["full"]
    prompt = midi_prompt(tune(*range(50, 90)), "tune", vocabulary)
    assert len(prompt) > 64
    config = SamplingConfig(count=2, max_tokens=len(prompt) + 20, seed=1)
    for piece in generate(model, vocabulary, config, 64, prompt=prompt):
        np.testing.assert_array_equal(piece[: len(prompt)], prompt)
        assert first_fault(piece, vocabulary) == -1
    short = midi_prompt(tune(*range(50, 90)), "tune", vocabulary, quarters=3)
    assert decode(short, vocabulary).notes == 3
    with pytest.raises(BadMidiError, match="deep is not readable as music: it has no notes that"):
        midi_prompt(tune(2, 3), "deep", vocabulary)


def test_a_piece_depends_on_its_number_and_the_seed_but_not_on_the_batch(model: Transformer) -> None:
    vocabulary = VOCABULARIES["full"]

    def pieces(**settings: Any) -> list[list[int]]:
        config = SamplingConfig.model_validate({"count": 5, "max_tokens": 48, "seed": 3} | settings)
        return [piece.tolist() for piece in generate(model, vocabulary, config, 64)]

    five = pieces()
    assert pieces(batch_size=2) == five
    assert pieces(count=3) == five[:3]
    assert pieces(seed=4) != five
    assert len({tuple(piece) for piece in five}) > 1


def test_a_prompt_is_continued(model: Transformer) -> None:
    vocabulary = VOCABULARIES["full"]
    prompt = generate(model, vocabulary, SamplingConfig(count=1, max_tokens=20, seed=1), 64)[0][:12]
    for piece in generate(
        model, vocabulary, SamplingConfig(count=2, max_tokens=40, seed=2), 64, prompt=prompt
    ):
        np.testing.assert_array_equal(piece[:12], prompt)
        assert first_fault(piece, vocabulary) == -1


def test_sampling_leaves_the_model_as_it_was(model: Transformer) -> None:
    model.train()
    generate(model, VOCABULARIES["full"], SamplingConfig(count=1, max_tokens=16), 64)
    assert model.training
    # Training works through tables that were extended while sampling.
    model(torch.ones(1, 12, dtype=torch.long)).sum().backward()
    model.zero_grad()


def test_files_are_equal_for_equal_seeds_and_record_how_they_were_made(
    model: Transformer, tmp_path: Path
) -> None:
    config = SamplingConfig(count=2, max_tokens=120, seed=11, temperature=0.9)

    def files(name: str) -> list[str]:
        made = sample_to_files(
            model,
            VOCABULARIES["full"],
            config,
            tmp_path / name,
            context_length=64,
            title="test",
            origin={"step": 7},
        )
        assert [file.midi.name for file in made] == ["sample-0.mid", "sample-1.mid"]
        assert all(file.notes > 0 for file in made)
        paths = sorted((tmp_path / name).iterdir())
        assert [path.name for path in paths] == [
            "sample-0.mid",
            "sample-0.png",
            "sample-1.mid",
            "sample-1.png",
        ]
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]

    assert files("one") == files("two")
    chunk = mido.MidiFile(tmp_path / "one" / "sample-1.mid").tracks[0]
    said = json.loads(next(message.text for message in chunk if message.type == "text"))
    assert (said["seed"], said["temperature"], said["piece"], said["step"]) == (11, 0.9, 1, 7)


def test_bar_lines_follow_the_metre_and_the_picture_is_a_png() -> None:
    vocabulary = VOCABULARIES["full"]
    text = (
        "Bos Track_0 Program_0 Bar Meter_3/4 Position_0 Tempo_120.0 Track_0 Pitch_60 Velocity_78 Duration_12 "
        "Bar Meter_6/8 Position_0 Track_0 Pitch_62 Velocity_78 Duration_12 Bar Position_30 Track_0 Pitch_64 "
        "Velocity_78 Duration_6 Eos"
    )
    music = decode(np.array([vocabulary.tokens.index(name) for name in text.split()]), vocabulary)
    bars, beats = bar_lines(music)
    assert bars.tolist() == [0, 1440, 2880, 4320]
    assert beats.tolist() == [0, 480, 960, *range(1440, 4320, 240)]
    picture = draw_piano_roll(music, "two bars")
    assert picture.startswith(b"\x89PNG\r\n")
    assert len(picture) > 5_000
