"""Typed models of the AurlTrainingJob resource, from which the CRD is generated. Imports no kopf."""

from aurl_operator.api.base import (
    API_VERSION,
    CATEGORIES,
    GROUP,
    KIND,
    PLURAL,
    SHORT_NAMES,
    SINGULAR,
    VERSION,
)
from aurl_operator.api.spec import JobSpec
from aurl_operator.api.status import PRINTER_COLUMNS, JobStatus

__all__ = [
    "API_VERSION",
    "CATEGORIES",
    "GROUP",
    "KIND",
    "PLURAL",
    "PRINTER_COLUMNS",
    "SHORT_NAMES",
    "SINGULAR",
    "VERSION",
    "JobSpec",
    "JobStatus",
]
