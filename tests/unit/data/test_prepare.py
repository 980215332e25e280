"""Preparing a dataset: dropped files are reported, complete datasets reused, damaged ones replaced."""

from __future__ import annotations

import functools
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aurl_trainer.data import prepare as preparation
from aurl_trainer.data import workers
from aurl_trainer.data.config import DatasetConfig, TokenizerConfig
from aurl_trainer.data.errors import DatasetError, PreparationError
from aurl_trainer.data.midi import read_midi
from aurl_trainer.data.prepare import Prepared, prepare
from aurl_trainer.data.shards import SPLITS, Dataset
from aurl_trainer.data.source_file import SourceFile
from aurl_trainer.data.tokenizer import encode
from aurl_trainer.data.workers import tokenize_files
from aurl_trainer.system import cgroup
from unit.data.lethal_file import LethalFile
from unit.data.wild_midi import tune


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    music = tmp_path / "music" / "deep"
    music.mkdir(parents=True)
    for number in range(10):
        (music / f"{number}.mid").write_bytes(tune(50 + number, 52 + number, 60))
    return tmp_path


def _prepare(volume: Path, job: str = "job", **dataset: Any) -> Prepared:
    config = DatasetConfig.model_validate(
        {"source": {"directory": {"path": "music"}}, "workers": 1, "split": {"testFraction": 0.2}} | dataset
    )
    seen: list[tuple[int, int, int]] = []
    prepared = prepare(config, volume / job, volume, lambda *counts: seen.append(counts))
    assert seen[0][0] == 0
    assert seen[-1][0] == seen[-1][1]
    assert seen[-1][2] == prepared.dropped
    return prepared


def _report(prepared: Prepared) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((prepared.path / "report.json").read_text())
    return report


def test_bad_files_and_copies_are_counted_and_reported(volume: Path) -> None:
    (volume / "music" / "broken.mid").write_bytes(b"not music")
    (volume / "music" / "copy of 3.MID").write_bytes((volume / "music/deep/3.mid").read_bytes())
    (volume / "music" / "drums out of range.midi").write_bytes(tune(3, 4))
    (volume / "music" / "readme.txt").write_text("no music either, but nobody asked for it")
    os.mkfifo(volume / "music" / "pipe.mid")
    prepared = _prepare(volume)
    assert (prepared.files, prepared.dropped, prepared.duplicates) == (10, 3, 1)
    assert prepared.dropped_names == ["broken.mid", "drums out of range.midi", "pipe.mid"]
    report = _report(prepared)
    assert report["duplicates"] == {"deep/3.mid": "copy of 3.MID"}
    assert "damaged" in report["droppedFiles"]["broken.mid"]
    assert report["droppedFiles"]["pipe.mid"] == "it is not a regular file"
    assert sum(report["droppedByReason"].values()) == 3
    assert {split: len(report["pieces"][split]) for split in SPLITS} == {
        "train": 7,
        "validation": 1,
        "test": 2,
    }


def test_there_are_no_more_workers_than_the_container_has_cpus(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def record(files: Any, config: TokenizerConfig, count: int) -> Any:
        asked.append(count)
        return tokenize_files(files, config, 1)

    monkeypatch.setattr(preparation, "tokenize_files", record)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(64), raising=False)
    monkeypatch.setattr(cgroup, "cpu_limit", lambda root: 1.5)
    _prepare(volume, workers=0)
    assert asked == [2]


def test_the_splits_hold_exactly_the_pieces(volume: Path) -> None:
    prepared = _prepare(volume)
    dataset, report = Dataset.open(prepared.path), _report(prepared)
    dataset.verify()
    vocabulary = dataset.vocabulary()
    for name in SPLITS:
        split = dataset.split(name)
        for number, piece in enumerate(report["pieces"][name]):
            music = read_midi((volume / "music" / piece).read_bytes(), piece)
            stored = split.tokens[split.offsets[number] : split.offsets[number + 1]]
            np.testing.assert_array_equal(stored, encode(music, vocabulary).tokens)
        assert len(split.offsets) == len(report["pieces"][name]) + 1
    assert prepared.train_tokens == len(dataset.split("train").tokens)
    assert [path.name for path in prepared.path.parent.iterdir()] == [prepared.fingerprint]


def test_the_split_follows_the_music_and_not_the_names(volume: Path) -> None:
    def held_out(prepared: Prepared) -> set[bytes]:
        split = Dataset.open(prepared.path).split("validation")
        return {
            split.tokens[a:b].tobytes() for a, b in zip(split.offsets[:-1], split.offsets[1:], strict=True)
        }

    before = held_out(_prepare(volume))
    for number in range(10):
        (volume / f"music/deep/{number}.mid").rename(volume / f"music/{9 - number}.mid")
    assert held_out(_prepare(volume)) == before
    assert held_out(_prepare(volume, split={"seed": 5})) != before


def test_a_prepared_dataset_is_reused_until_the_content_changes(volume: Path) -> None:
    first = _prepare(volume)
    stamp = (first.path / "COMMITTED").stat().st_mtime_ns
    assert _prepare(volume) == first
    assert (first.path / "COMMITTED").stat().st_mtime_ns == stamp
    fingerprints = {first.fingerprint, _prepare(volume, tokenizer={"velocityBins": 8}).fingerprint}
    (volume / "music/deep/0.mid").write_bytes(tune(61, 61))
    fingerprints.add(_prepare(volume).fingerprint)
    assert len(fingerprints) == 3


def test_a_restart_reads_neither_source_nor_dataset_unless_a_file_has_changed(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _prepare(volume)
    read: list[Path] = []
    original_open = Path.open

    def watched(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.suffix in (".mid", ".bin"):
            read.append(self)
        return original_open(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", watched)
    assert _prepare(volume) == first
    assert read == []
    # Touched, moved or damaged: hashed again, and the content decides.
    os.utime(volume / "music/deep/0.mid")
    assert _prepare(volume) == first
    assert volume / "music/deep/0.mid" in read and first.path / "train.bin" in read
    read.clear()
    assert _prepare(volume) == first
    assert read == []
    (volume / "music/deep/0.mid").rename(volume / "music/deep/other.mid")
    assert _prepare(volume).fingerprint != first.fingerprint
    (first.path / "receipt.json").write_text("{")
    assert _prepare(volume).fingerprint != first.fingerprint


@pytest.mark.parametrize("harm", ["marker", "bit", "cut", "manifest"])
def test_a_damaged_dataset_is_prepared_again(volume: Path, harm: str) -> None:
    prepared = _prepare(volume)
    stream = prepared.path / "train.bin"
    content = stream.read_bytes()
    if harm == "marker":
        (prepared.path / "COMMITTED").unlink()
    elif harm == "bit":
        stream.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif harm == "cut":
        stream.write_bytes(content[:-2])
    else:
        (prepared.path / "manifest.json").write_text("{}")
    with pytest.raises(DatasetError):
        Dataset.open(prepared.path).verify()
    assert _prepare(volume) == prepared
    Dataset.open(prepared.path).verify()
    assert stream.read_bytes() == content


def test_a_dataset_of_another_format_is_refused(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = _prepare(volume)
    monkeypatch.setattr("aurl_trainer.data.shards.FORMAT", 2)
    with pytest.raises(DatasetError, match="has format 1 and this trainer reads format 2; prepare it again"):
        Dataset.open(prepared.path)


def test_leftovers_of_dead_writers_are_removed_but_not_those_of_live_ones(volume: Path) -> None:
    root = volume / "job" / "dataset"
    for name, age in ((".tmp-dead", 4000), (".tmp-alive", 0)):
        (root / name).mkdir(parents=True)
        (root / name / "tokens.scratch").write_bytes(b"x")
        then = (root / name).stat().st_mtime - age
        os.utime(root / name / "tokens.scratch", (then, then))
        os.utime(root / name, (then, then))
    prepared = _prepare(volume)
    assert sorted(path.name for path in root.iterdir()) == sorted([".tmp-alive", prepared.fingerprint])


@pytest.mark.parametrize(
    ("make", "source", "sentence"),
    [
        (
            "nothing",
            {"directory": {"path": "absent"}},
            "dataset.source.directory.path: the directory 'absent' does not exist on the volume of the job; "
            "put the music there or correct the path.",
        ),
        (
            "nothing",
            {"directory": {"path": "music", "pattern": "*.kar"}},
            "dataset.source.directory.pattern: no file under 'music' matches '*.kar'; "
            "add MIDI files or correct the pattern.",
        ),
        (
            "bad files",
            {"directory": {"path": "bad"}},
            "dataset.source.directory.path: none of the 2 files under 'bad' can be used "
            "(the first, a.mid: it is damaged (Invaild midi file! File size is less than 14)); "
            "put MIDI files there or correct the source.",
        ),
        (
            "nothing",
            {"music21Corpus": {"collection": "composer", "composer": "nobody"}},
            "dataset.source.music21Corpus.composer: found no music by 'nobody' in the corpus of music21; "
            "set it to a folder of the corpus, such as bach, palestrina, haydn or mozart.",
        ),
    ],
)
def test_a_source_without_music_is_an_error_with_place_and_cure(
    volume: Path, make: str, source: dict[str, Any], sentence: str
) -> None:
    if make == "bad files":
        (volume / "bad").mkdir()
        for name in ("a.mid", "b.mid"):
            (volume / "bad" / name).write_bytes(b"nothing")
    with pytest.raises(DatasetError) as caught:
        _prepare(volume, source=source)
    assert str(caught.value) == sentence
    assert not list((volume / "job").glob("dataset/*"))
    assert not list((volume / "job").glob("dataset/.tmp-*"))


@pytest.mark.parametrize(
    ("pieces", "sizes"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (10, (7, 1, 2))]
)
def test_training_always_keeps_a_piece(volume: Path, pieces: int, sizes: tuple[int, ...]) -> None:
    for number in range(pieces, 10):
        (volume / f"music/deep/{number}.mid").unlink()
    report = _report(_prepare(volume))
    assert tuple(len(report["pieces"][split]) for split in SPLITS) == sizes


def test_a_file_that_kills_its_reader_is_reported_and_the_others_are_read(volume: Path) -> None:
    music = volume / "music" / "deep"
    files: list[SourceFile] = [SourceFile(f"{n}.mid", music / f"{n}.mid", "midi") for n in range(10)]
    files[4] = LethalFile("lethal.mid", music / "4.mid", "midi")
    outcomes = {file.name: found for file, found in tokenize_files(files, TokenizerConfig(), 2)}
    assert list(outcomes) == [file.name for file in files]
    assert outcomes["lethal.mid"].reason == "it crashes the reader"
    assert all(outcome.tokens for name, outcome in outcomes.items() if name != "lethal.mid")


@pytest.mark.parametrize("fault", ["error", "death"])
def test_workers_that_cannot_start_are_not_blamed_on_the_files(
    volume: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_serve", {"error": _fail, "death": _die}[fault])
    with pytest.raises(PreparationError, match=r"^The processes that read the music cannot be started \("):
        list(tokenize_files(_files(volume), TokenizerConfig(), 2))


@pytest.mark.parametrize(
    "answer", [b"", b"{}", b"[]\n", b'{"files": [[9, "", 1, {}]]}\n', pickle.dumps(print)]
)
def test_nonsense_from_a_worker_is_never_unpickled(
    volume: Path, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_serve", functools.partial(_answer, answer))
    monkeypatch.setattr(pickle, "loads", _fail)
    outcomes = list(tokenize_files(_files(volume)[:2], TokenizerConfig(), 2))
    assert [outcome.reason for _, outcome in outcomes] == ["it crashes the reader"] * 2


def _files(volume: Path) -> list[SourceFile]:
    return [SourceFile(f"{n}.mid", volume / f"music/deep/{n}.mid", "midi") for n in range(10)]


def _fail(*arguments: Any) -> None:
    raise OSError("Resource temporarily unavailable")


def _die(*arguments: Any) -> None:
    os._exit(9)


def _answer(answer: bytes, connection: Any, config: TokenizerConfig) -> None:
    connection.send_bytes(workers.READY)
    connection.recv()
    connection.send_bytes(answer)


def test_the_chorales_of_music21_become_a_dataset_of_four_voices(tmp_path: Path) -> None:
    prepared = _prepare(tmp_path, source={"music21Corpus": {"maxPieces": 4}})
    assert (prepared.files, prepared.dropped) == (4, 0)
    dataset = Dataset.open(prepared.path)
    vocabulary, split = dataset.vocabulary(), dataset.split("train")
    header = [vocabulary.tokens[token] for token in split.tokens[:9]]
    assert header[1::2] == ["Track_0", "Track_1", "Track_2", "Track_3"]
