"""Archives from the web, prepared tokens and rasters: their pieces and their errors."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from aurl_trainer.data import archive
from aurl_trainer.data.config import DatasetConfig
from aurl_trainer.data.errors import DatasetError, DownloadError
from aurl_trainer.data.prepare import Prepared, prepare
from aurl_trainer.data.shards import SPLITS, Dataset
from unit.data.wild_midi import tune

FILES = {f"songs/{number}.mid": tune(60, 60 + number, 72) for number in range(1, 6)}
SNEAKY = {"../outside.mid": tune(60), "/tmp/absolute.mid": tune(61), "readme.txt": b"text"}


def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in (FILES | SNEAKY).items():
            file.writestr(name, content)
    return out.getvalue()


def _tar(mode: Literal["w:gz", "w:xz"]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as file:
        for name, content in (FILES | SNEAKY).items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("songs/link.mid")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    return out.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` by path; a path in `failures` answers 503 that many times first."""

    content: dict[str, bytes]
    failures: dict[str, int]
    requests: list[str]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if self.server.failures.get(self.path, 0):
            self.server.failures[self.path] -= 1
            self.send_error(503)
            return
        content = self.server.content.get(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *values: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(archive, "WAITS", (0.0, 0.0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Server(("127.0.0.1", 0), Handler)
    running.content = {
        "/a.zip": _zip(),
        "/a.tgz": _tar("w:gz"),
        "/a.txz": _tar("w:xz"),
        "/text": b"no archive",
    }
    running.failures, running.requests = {}, []
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def _prepare(root: Path, source: dict[str, Any], **dataset: Any) -> Prepared:
    config = DatasetConfig.model_validate({"source": source, "workers": 1} | dataset)
    return prepare(config, root / "job", root, lambda *_: None)


def _source(server: Server, path: str, **change: str) -> dict[str, Any]:
    sha256 = hashlib.sha256(server.content.get(path, b"")).hexdigest()
    return {"archive": {"url": server.url(path), "sha256": sha256} | change}


@pytest.mark.parametrize("path", ["/a.zip", "/a.tgz", "/a.txz"])
def test_an_archive_is_downloaded_once_and_stays_in_its_folder(
    server: Server, path: str, tmp_path: Path
) -> None:
    server.failures[path] = 1
    prepared = _prepare(tmp_path, _source(server, path))
    report = json.loads((prepared.path / "report.json").read_text())
    assert sorted(name for names in report["pieces"].values() for name in names) == sorted(FILES)
    assert (prepared.dropped, server.requests) == (0, [path, path])
    assert _prepare(tmp_path, _source(server, path)) == prepared
    assert len(server.requests) == 2
    found = {file.name for file in tmp_path.rglob("*.mid")}
    assert found == {Path(name).name for name in FILES}
    assert not list((tmp_path / "job" / "source").glob(".tmp-*"))


def test_faults_of_archives_are_reported_with_place_and_cure(server: Server, tmp_path: Path) -> None:
    real = hashlib.sha256(server.content["/a.zip"]).hexdigest()
    for source, sentence in (
        (
            _source(server, "/a.zip", sha256="0" * 64),
            f"dataset.source.archive.sha256: the archive at {server.url('/a.zip')} has {real}, "
            f"not {'0' * 64}; make sure that it is the right archive and correct the checksum.",
        ),
        (
            _source(server, "/absent"),
            "dataset.source.archive.url: the server answers 404 Not Found for "
            f"{server.url('/absent')}; correct the URL.",
        ),
        (
            _source(server, "/text"),
            f"dataset.source.archive.url: {server.url('/text')} cannot be unpacked "
            "(file could not be opened successfully",
        ),
        (
            _source(server, "/a.zip", pattern="*.kar"),
            f"dataset.source.archive.pattern: no file in the archive {server.url('/a.zip')} matches '*.kar'",
        ),
    ):
        with pytest.raises(DatasetError) as caught:
            _prepare(tmp_path, source)
        assert str(caught.value).startswith(sentence)
    server.failures["/a.zip"] = 99
    with pytest.raises(DownloadError, match=r"Downloading the archive .* failed: 503") as failed:
        _prepare(tmp_path / "other", _source(server, "/a.zip"))
    assert failed.value.failure_class == "Infrastructure"


RASTER = {
    "train": [
        [[72, 67, 64, 48]] * 4 + [[74, 67, -1, 47]] * 4,
        [[71.0, 67, 62, 43]] * 8,
        [[71, 67, 62]] * 4,
        [[60, 55, 52, 36]] * 2,
        [[]],
    ],
    "valid": [[[72, 64, 60, 48], [72, 64, 60, 48], [None, 65, 60, 50]]],
    "test": [[[60, 55, 52, 36]] * 2, [[65, 60, 57, 41]] * 3],
}
CHORALES = {
    "encoding": "raster",
    "positionsPerQuarter": 4,
    "tracks": 4,
    "lowestPitch": 36,
    "highestPitch": 81,
}


def _pieces(prepared: Prepared) -> dict[str, list[list[str]]]:
    dataset = Dataset.open(prepared.path)
    names, splits = dataset.vocabulary().tokens, {name: dataset.split(name) for name in SPLITS}
    return {
        name: [
            [names[token] for token in split.tokens[a:b]]
            for a, b in zip(split.offsets[:-1].tolist(), split.offsets[1:].tolist(), strict=True)
        ]
        for name, split in splits.items()
    }


def test_a_file_of_rasters_keeps_its_split_and_its_pitches(tmp_path: Path) -> None:
    (tmp_path / "chorales.json").write_text(json.dumps(RASTER))
    prepared = _prepare(tmp_path, {"raster": {"path": "chorales.json"}}, tokenizer=CHORALES)
    report = json.loads((prepared.path / "report.json").read_text())
    # A piece in both training and test is dropped from training.
    assert report["duplicates"] == {"train/3": "test/0"}
    assert report["droppedFiles"] == {"train/4": "it has no notes"}
    pieces = _pieces(prepared)
    assert {name: len(found) for name, found in pieces.items()} == {"train": 3, "validation": 1, "test": 2}
    assert " ".join(pieces["validation"][0]) == (
        "Bos Pitch_72 Pitch_64 Pitch_60 Pitch_48 Pitch_72 Pitch_64 Pitch_60 Pitch_48 "
        "Rest Pitch_65 Pitch_60 Pitch_50 Eos"
    )
    assert pieces["train"][0][-5:] == ["Pitch_74", "Pitch_67", "Rest", "Pitch_47", "Eos"]


def test_pretokenized_music_is_used_unchanged_and_only_with_its_own_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "chorales.json").write_text(json.dumps(RASTER))
    first = _prepare(tmp_path, {"raster": {"path": "chorales.json"}}, tokenizer=CHORALES)
    tokens = {"tokens": {"path": str(first.path.relative_to(tmp_path))}}
    second = _prepare(tmp_path, tokens, tokenizer=CHORALES)
    assert second.fingerprint != first.fingerprint
    assert _pieces(second) == _pieces(first)
    reports = [json.loads((made.path / "report.json").read_text()) for made in (first, second)]
    for key in ("tokens", "notes"):
        assert reports[0][key] == reports[1][key]
    with pytest.raises(DatasetError, match=r"with another tokenizer; set dataset.tokenizer to .*tracks: 4"):
        _prepare(tmp_path, tokens, tokenizer=CHORALES | {"tracks": 3})
    with pytest.raises(DatasetError, match=r"dataset.source.tokens.path: 'absent' is not a prepared dataset"):
        _prepare(tmp_path, {"tokens": {"path": "absent"}}, tokenizer=CHORALES)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "'a.json' is not valid JSON"),
        ("[1]", r"must hold \{train, valid, test\}"),
        ('{"test": []}', "has no pieces under `train`"),
    ],
)
def test_a_wrong_file_of_rasters_is_explained(content: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DatasetError, match=f"^dataset.source.raster.path: .*{sentence}"):
        _prepare(tmp_path, {"raster": {"path": "a.json"}}, tokenizer=CHORALES)
