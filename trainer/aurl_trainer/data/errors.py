"""Errors of music files and datasets."""

from __future__ import annotations

from aurl_trainer.errors import AurlError, UserError


class DatasetError(UserError):
    """The dataset of the job cannot be prepared, or a prepared one cannot be used."""


class DownloadError(AurlError):
    """An archive cannot be downloaded at the moment; a later retry may succeed."""

    failure_class = "Infrastructure"


class PreparationError(AurlError):
    """The processes that prepare the dataset cannot be started; says nothing about its files."""

    failure_class = "Infrastructure"


class BadMidiError(AurlError):
    """A file is not readable music; the preparation reports it and continues.

    `path` is the file as the user named it, `reason` a clause for the report.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} is not readable as music: {reason}.")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadMidiError], tuple[str, str]]:
        return (BadMidiError, (self.path, self.reason))
