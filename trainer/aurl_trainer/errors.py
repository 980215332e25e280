"""The errors a training job can end with; each carries the failure class that the launcher reports."""

from __future__ import annotations

from typing import ClassVar

from aurl_trainer.contract import ReportedClass


class AurlError(Exception):
    """Base of the trainer's own errors; the message is one sentence that names the place and the cure."""

    failure_class: ClassVar[ReportedClass] = "Unknown"


class UserError(AurlError):
    """The job cannot work as it was written; trying again without a change would fail again."""

    failure_class = "UserError"


class CheckpointMismatchError(UserError):
    """A checkpoint belongs to another model, vocabulary or dataset than the job describes."""


class DivergenceError(AurlError):
    """Training left the region where it makes progress, and the budget for recovering is spent."""

    failure_class = "Divergence"


class OutOfMemoryError(AurlError):
    """Training does not fit into memory, however small its micro-batches may be."""

    failure_class = "OutOfMemory"


class DamagedCheckpointError(AurlError):
    """A committed checkpoint does not match its manifest."""

    failure_class = "Infrastructure"


class HangError(AurlError):
    """Other ranks did not take part in a collective within the timeout."""

    failure_class = "Hang"


class PeerLostError(AurlError):
    """The connection to another rank broke: it died, and its own end says why."""

    failure_class = "Infrastructure"
    peer_lost: ClassVar[bool] = True
