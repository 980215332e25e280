"""Errors that end a training job, each with the failure class that the launcher reports."""

from __future__ import annotations

from typing import ClassVar

from aurl_trainer.contract import ReportedClass


class AurlError(Exception):
    """Base of the trainer's errors; the message is one sentence with the place and the cure."""

    failure_class: ClassVar[ReportedClass] = "Unknown"


class UserError(AurlError):
    """The job cannot work as configured; a retry without a change would fail again."""

    failure_class = "UserError"


class CheckpointMismatchError(UserError):
    """A checkpoint has another format, or belongs to another model, vocabulary or dataset than the job."""


class DivergenceError(AurlError):
    """Training diverged, and its budget for recovery is exhausted."""

    failure_class = "Divergence"


class OutOfMemoryError(AurlError):
    """Training does not fit into memory, even with the smallest micro-batches."""

    failure_class = "OutOfMemory"


class DamagedCheckpointError(AurlError):
    """A committed checkpoint does not match its manifest."""

    failure_class = "Infrastructure"


class HangError(AurlError):
    """Other ranks did not join a collective within the timeout."""

    failure_class = "Hang"


class PeerLostError(AurlError):
    """The connection to another rank broke because it died; its own error is the cause."""

    failure_class = "Infrastructure"
    peer_lost: ClassVar[bool] = True
