"""What can be wrong with music or a dataset."""

from __future__ import annotations

from aurl_trainer.errors import AurlError, UserError


class DatasetError(UserError):
    """The dataset that the job describes cannot be made, or a prepared one cannot be used."""


class DownloadError(AurlError):
    """An archive cannot be had at this moment; trying again later may help."""

    failure_class = "Infrastructure"


class BadMidiError(AurlError):
    """One file is not readable music; the preparation counts and names it, and goes on.

    `path` is the file as the user knows it, `reason` a phrase for the report.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} is not readable as music: {reason}.")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadMidiError], tuple[str, str]]:
        return (BadMidiError, (self.path, self.reason))
