"""Download an archive of MIDI files to the volume, once, and verify its checksum."""

from __future__ import annotations

import fnmatch
import hashlib
import http.client
import logging
import os
import tarfile
import time
import urllib.error
import urllib.request
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Final

from aurl_trainer.data.config import ArchiveConfig
from aurl_trainer.data.errors import DatasetError, DownloadError
from aurl_trainer.data.midi import MAX_FILE_BYTES
from aurl_trainer.system.durable import remove_tree, sync_directory

log = logging.getLogger("aurl_trainer.data")

KEY: Final = "dataset.source.archive"
MAX_UNPACKED_BYTES: Final = 64 * 2**30
CHUNK: Final = 2**20
TIMEOUT_SECONDS: Final = 60
WAITS: Final = (1.0, 2.0, 4.0, 8.0)
"""Seconds to wait before each retry."""
_RETRIABLE: Final = (408, 425, 429)


def unpacked_archive(config: ArchiveConfig, directory: Path) -> Path:
    """Return the folder below `directory` with the matching files, downloading the archive if it is missing.

    Raises DatasetError if the archive does not exist, has another checksum or cannot be unpacked,
    DownloadError if the server or the network fails, and OSError if the volume is not writable.
    """
    matching = hashlib.sha256(f"{config.sha256} {config.pattern}".encode()).hexdigest()[:32]
    target = directory / matching
    if target.is_dir():
        return target
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f".tmp-{matching}-{uuid.uuid4().hex[:8]}"
    temporary.mkdir()
    try:
        _download(config, temporary / "archive")
        (temporary / "files").mkdir()
        count = _unpack(temporary / "archive", temporary / "files", config)
        sync_directory(temporary / "files")
        try:
            (temporary / "files").rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another writer was faster
                raise
        sync_directory(directory)
    finally:
        remove_tree(temporary)
    log.info("archive unpacked", extra={"url": config.url, "files": count})
    return target


def _download(config: ArchiveConfig, path: Path) -> None:
    for wait in (*WAITS, None):
        try:
            found = _download_once(config.url, path)
        except urllib.error.HTTPError as error:
            if 400 <= error.code < 500 and error.code not in _RETRIABLE:
                raise DatasetError(
                    f"{KEY}.url: the server answers {error.code} {error.reason} for {config.url}; "
                    "correct the URL."
                ) from error
            problem = f"{error.code} {error.reason}"
        except (http.client.HTTPException, TimeoutError, ConnectionError, urllib.error.URLError) as error:
            problem = str(getattr(error, "reason", "") or error or type(error).__name__)
        else:
            if found != config.sha256:
                raise DatasetError(
                    f"{KEY}.sha256: the archive at {config.url} has {found}, not {config.sha256}; "
                    "make sure that it is the right archive and correct the checksum."
                )
            return
        if wait is None:
            raise DownloadError(f"Downloading the archive {config.url} failed: {problem}. Try again later.")
        log.warning("download failed, retrying", extra={"url": config.url, "reason": problem})
        time.sleep(wait)


def _download_once(url: str, path: Path) -> str:
    """Download `url` to `path` and return the SHA-256 of the content."""
    digest = hashlib.sha256()
    request = urllib.request.Request(url, headers={"User-Agent": "aurl-trainer"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer, path.open("wb") as file:
        expected, written = answer.headers.get("Content-Length"), 0
        while chunk := answer.read(CHUNK):
            digest.update(chunk)
            written += file.write(chunk)
        if expected is not None and written < int(expected):
            raise ConnectionError(f"the response ended after {written} of {expected} bytes")
    return digest.hexdigest()


def _unpack(archive: Path, directory: Path, config: ArchiveConfig) -> int:
    """Write the matching files below `directory` and return their number."""
    count = total = 0
    try:
        for name, content in _members(archive, config):
            path = directory.joinpath(*PurePosixPath(name).parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            with content, path.open("wb") as file:
                # One byte beyond the limit: the reader then reports that the file is too large.
                _copy(content, file, MAX_FILE_BYTES + 1)
                total += file.tell()
            count += 1
            if total > MAX_UNPACKED_BYTES:
                limit = MAX_UNPACKED_BYTES // 2**30
                raise DatasetError(
                    f"{KEY}.url: {config.url} unpacks to more than {limit} GiB; split the archive."
                )
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise DatasetError(
            f"{KEY}.url: {config.url} cannot be unpacked ({error}); use a zip or tar archive."
        ) from error
    return count


def _members(archive: Path, config: ArchiveConfig) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield name and content of each regular file that matches and stays inside the target folder."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                if not info.is_dir() and _wanted(info.filename, config.pattern):
                    yield info.filename, zipped.open(info)
        return
    with tarfile.open(archive, "r:*") as tar:
        while (member := tar.next()) is not None:
            if member.isreg() and _wanted(member.name, config.pattern):
                content = tar.extractfile(member)
                assert content is not None  # a regular file has content
                yield member.name, content
            tar.members = []  # type: ignore[attr-defined]  # it would grow to millions


def _wanted(name: str, pattern: str) -> bool:
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts and "\0" not in name
    return inside and fnmatch.fnmatchcase(os.path.normpath(name).lower(), pattern.lower())


def _copy(source: IO[bytes], target: IO[bytes], most: int) -> None:
    while most > 0 and (chunk := source.read(min(most, CHUNK))):
        most -= target.write(chunk)
