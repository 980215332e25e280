"""Splits by groups and by a CSV file, and that nothing else changes the split of existing jobs."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aurl_trainer.config import JobFile
from aurl_trainer.data.config import DatasetConfig
from aurl_trainer.data.errors import DatasetError
from aurl_trainer.data.prepare import prepare
from aurl_trainer.errors import UserError
from unit.data.wild_midi import tune

SONGS, VERSIONS = 12, 4


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    for song in range(SONGS):
        folder = tmp_path / "music" / f"song-{song}"
        folder.mkdir(parents=True)
        for version in range(VERSIONS):
            (folder / f"v{version}.mid").write_bytes(tune(40 + song, 60 + version, 70))
    return tmp_path


def _split(volume: Path, **split: Any) -> dict[str, list[str]]:
    config = DatasetConfig.model_validate(
        {"source": {"directory": {"path": "music"}}, "workers": 1, "split": split}
    )
    prepared = prepare(config, volume / "job", volume, lambda *_: None)
    report = json.loads((prepared.path / "report.json").read_text())
    return {name: list(pieces) for name, pieces in report["pieces"].items()}


def _table(volume: Path, text: str) -> str:
    (volume / "info.csv").write_text(text)
    return "info.csv"


@pytest.mark.parametrize("pattern", [".*/", "song-\\d+", "song-(\\d+)/"])
def test_versions_of_a_song_stay_in_one_split(volume: Path, pattern: str) -> None:
    parts = _split(volume, groupPattern=pattern, validationFraction=0.2, testFraction=0.1)
    songs = {name: _songs(pieces) for name, pieces in parts.items()}
    assert {name: len(found) for name, found in songs.items()} == {"train": 9, "validation": 2, "test": 1}
    assert sum(len(found) for found in songs.values()) == SONGS
    assert sum(map(len, parts.values())) == SONGS * VERSIONS


def test_most_groups_keep_their_split_when_a_file_comes(volume: Path) -> None:
    before = _split(volume, groupPattern=".*/", validationFraction=0.5)
    (volume / "music" / "song-3" / "v9.mid").write_bytes(tune(33, 44, 55))
    after = _split(volume, groupPattern=".*/", validationFraction=0.5)
    assert len(_songs(before["validation"])) == 6
    assert len(_songs(before["validation"]) ^ _songs(after["validation"])) <= 2


def _songs(pieces: list[str]) -> set[str]:
    return {piece.split("/")[0] for piece in pieces}


def test_groups_larger_than_the_fraction_hold_out_the_smallest(volume: Path) -> None:
    (volume / "music" / "song-5" / "v0.mid").unlink()
    parts = _split(volume, groupPattern=".*/", validationFraction=0.01)
    assert _songs(parts["validation"]) == {"song-5"}
    assert _split(volume, groupPattern="music|song")["validation"] == []  # a single group is for training


def test_a_split_and_groups_come_from_a_csv_file(volume: Path) -> None:
    names = [f"song-{song}/v{version}.mid" for song in range(SONGS) for version in range(VERSIONS)]
    splits = ["train", "validation", "test", "train"]
    rows = "".join(f"{name},{splits[number % 4]},{number % 5}\n" for number, name in enumerate(names))
    path = _table(volume, "file,split,work\n" + rows)
    parts = _split(volume, table={"path": path, "fileColumn": "file", "splitColumn": "split"})
    assert parts == {
        "train": sorted(names[0::4] + names[3::4]),
        "validation": sorted(names[1::4]),
        "test": sorted(names[2::4]),
    }
    table = {"path": path, "fileColumn": "file", "groupColumn": "work"}
    parts = _split(volume, table=table, validationFraction=0.25)
    works = [{names.index(name) % 5 for name in parts[part]} for part in ("train", "validation")]
    assert works[0] | works[1] == set(range(5)) and not works[0] & works[1] and works[1]
    # Another split in the file is another dataset.
    _table(volume, "file,split,work\n" + rows.replace("train", "test", 1))
    changed = _split(volume, table={"path": path, "fileColumn": "file", "splitColumn": "split"})
    assert names[0] in changed["test"]


def test_a_table_may_leave_out_leading_folders(volume: Path) -> None:
    (volume / "music").rename(volume / "maestro")
    (volume / "music").mkdir()
    (volume / "maestro").rename(volume / "music" / "maestro")
    names = [f"song-{song}/v{version}.mid" for song in range(SONGS) for version in range(VERSIONS)]
    path = _table(
        volume, "\ufefffile,split\n" + "".join(f"{name},Test\n" for name in names[1:]) + f"{names[0]},train\n"
    )
    parts = _split(volume, table={"path": path, "fileColumn": "file", "splitColumn": "split"})
    assert parts["train"] == [f"maestro/{names[0]}"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "name,split\na,train\n",
            "dataset.split.table.fileColumn: 'info.csv' has no column 'file'; it has name, split.",
        ),
        (
            "file,split\nsong-0/v0.mid,holdout\n",
            "dataset.split.table.splitColumn: row 2 of 'info.csv' has 'holdout'; "
            "it must be train, validation or test.",
        ),
        (
            "file,split\nsong-0/v0.mid,train\nsong-0/v0.mid,test\n",
            "dataset.split.table.path: 'info.csv' assigns 'song-0/v0.mid' twice, differently in row 3; "
            "remove one of the rows.",
        ),
        (
            "file,split\nsong-0/v0.mid,train\n",
            "dataset.split.table.path: 'info.csv' has no row for 'song-0/v1.mid'; add one, or leave the file "
            "out with the pattern of the source.",
        ),
        ("", "dataset.split.table.fileColumn: 'info.csv' has no column 'file'; it has none."),
        (None, "dataset.split.table.path: 'info.csv' cannot be read: No such file or directory."),
        ("file,split\n\udcff", "dataset.split.table.path: 'info.csv' is not a CSV file"),
    ],
)
def test_faults_of_a_table_are_reported_with_place_and_cure(
    volume: Path, text: str | None, sentence: str
) -> None:
    if text is not None:
        (volume / "info.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DatasetError, match=f"^{re.escape(sentence)}"):
        _split(volume, table={"path": "info.csv", "fileColumn": "file", "splitColumn": "split"})


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"groupPattern": "("}, "groupPattern is not a regular expression"),
        ({"table": {"path": "a", "fileColumn": "f"}}, "set exactly one of splitColumn, groupColumn"),
        (
            {"table": {"path": "a", "fileColumn": "f", "splitColumn": "s"}, "testFraction": 0.2},
            "testFraction has no effect with split.table.splitColumn",
        ),
        (
            {"table": {"path": "a", "fileColumn": "f", "groupColumn": "s"}, "groupPattern": ".*/"},
            "groupPattern has no effect with split.table",
        ),
    ],
)
def test_contradictions_are_refused(split: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        JobFile.parse({"dataset": {"source": {"directory": {"path": "m"}}, "split": split}}, "job.yaml")


def test_the_split_of_existing_jobs_does_not_change(volume: Path) -> None:
    """The fingerprint and the pieces are those of the version before groups existed."""
    config = DatasetConfig.model_validate(
        {"source": {"directory": {"path": "music"}}, "workers": 1, "split": {"testFraction": 0.2, "seed": 3}}
    )
    prepared = prepare(config, volume / "job", volume, lambda *_: None)
    pieces = json.loads((prepared.path / "report.json").read_text())["pieces"]
    held_out = json.dumps([pieces["validation"], pieces["test"]])
    assert (prepared.fingerprint, hashlib.sha256(held_out.encode()).hexdigest()[:16]) == (
        "5fa17aecfaa797557b325d7840fd86cd",
        "318201d5b9abd767",
    )


def test_versions_on_both_sides_of_the_split_are_reported(volume: Path) -> None:
    """Ten songs, each in four keys: a random split leaks, groups do not."""
    for song in range(10):
        folder = volume / "songs" / str(song)
        folder.mkdir(parents=True)
        melody = (60 + np.random.default_rng(song).integers(0, 12, 40)).tolist()
        for version in range(VERSIONS):
            (folder / f"{version}.mid").write_bytes(tune(*[pitch + version for pitch in melody]))

    def leak(split: dict[str, Any]) -> str:
        config = DatasetConfig.model_validate(
            {"source": {"directory": {"path": "songs"}}, "workers": 1, "split": split}
        )
        first = prepare(config, volume / "job", volume, lambda *_: None)
        assert prepare(config, volume / "job", volume, lambda *_: None) == first
        return first.leak

    assert leak({"validationFraction": 0.2}).startswith("8 of 8 held-out pieces have at least 75% of their")
    assert leak({"validationFraction": 0.2, "groupPattern": ".*/"}) == ""
