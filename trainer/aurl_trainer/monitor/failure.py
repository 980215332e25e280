"""Failure files: the exception that ended a rank, classified and written by the rank itself.

`$AURL_RUN_DIR/failure-<rank>.json` holds the fields of `Failure`. The root cause is the earliest failure that
does not merely report a lost peer.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, get_args

from aurl_trainer.contract import ReportedClass, Variable
from aurl_trainer.monitor.snapshot import read_json, write_json

CLASSES: Final[tuple[ReportedClass, ...]] = get_args(ReportedClass)

MAX_MESSAGE = 1000
MAX_LINES = 20

_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory")
_HANG = ("timed out waiting", "wait timeout", "timeout(ms)=", "collective operation timeout")
_PEER_LOST = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "connection was forcibly closed",
    "failed to recv, got 0 bytes",
    "remote process exited",
    "the client socket has failed to connect",
)
#: What CUDA and NVML say of a broken GPU or fabric, or of a device that its node cannot provide.
_HARDWARE = (
    "uncorrectable ecc error",
    "uncorrectable nvlink error",
    "hardware stack error",
    "fallen off the bus",
    "unable to determine the device handle for gpu",
    "cuda-capable device(s) is/are busy or unavailable",
    "no cuda-capable device is detected",
    "system not yet initialized",
)
#: Infiniband's account of a broken link, and CUDA's of a peer's memory that is gone: mostly the peer's end.
_FABRIC = ("ibv_wc_retry_exc_err", "async event : port error", "invalid access of peer gpu memory")
_SOURCE_LINE = re.compile(r"^\[[^]]*\.(cc|cpp|cu|h|hpp):\d+\] ")
_LOST_STORAGE = (errno.EIO, errno.ESTALE, errno.ENXIO, errno.EREMOTEIO, errno.ETIMEDOUT, errno.EHOSTDOWN)


@dataclass
class Failure:
    """Why a rank failed; `rank` None is the preparation, `peer_lost`: another process died first."""

    rank: int | None
    failure_class: ReportedClass
    exception: str | None
    message: str
    lines: list[str] = field(default_factory=list)
    time: float = 0.0
    peer_lost: bool = False


def failure_file(run_dir: Path, rank: int | None) -> Path:
    """Return the failure file of rank `rank` (None: the preparation)."""
    return run_dir / f"failure-{'prepare' if rank is None else rank}.json"


@contextlib.contextmanager
def record_failure(run_dir: Path | None, rank: int | None) -> Iterator[None]:
    """Write the failure file for an exception that leaves the block, and re-raise it."""
    try:
        yield
    except BaseException as exception:
        if run_dir is not None and not (isinstance(exception, SystemExit) and exception.code in (0, None)):
            # The exception matters more than a report that cannot be written.
            with contextlib.suppress(OSError):
                write_json(failure_file(run_dir, rank), describe(exception, rank, time.time()))
        raise


def describe(exception: BaseException, rank: int | None, now: float) -> Failure:
    """Return the failure for `exception`; `now` is its time in epoch seconds."""
    failure_class, peer_lost = classify(exception)
    lines = "".join(traceback.format_exception(exception)).splitlines()
    return Failure(
        rank=rank,
        failure_class=failure_class,
        exception=type(exception).__name__,
        message=_message(exception),
        lines=lines[-MAX_LINES:],
        time=now,
        peer_lost=peer_lost,
    )


def _message(exception: BaseException) -> str:
    if isinstance(exception, SystemExit) and isinstance(exception.code, int):
        return f"It exited with code {exception.code}; see its log for the reason."
    return essence(str(exception)) or type(exception).__name__


def classify(exception: BaseException) -> tuple[ReportedClass, bool]:
    """Return the class of `exception` and whether it only reports a lost peer.

    The trainer's own exceptions carry their class as `failure_class`; others are classified by type, and
    torch's RuntimeErrors by the message of its C++ libraries.
    """
    own = getattr(exception, "failure_class", None)
    if own in CLASSES:
        return own, bool(getattr(exception, "peer_lost", False))
    name, text = type(exception).__name__, str(exception).lower()
    if (
        isinstance(exception, MemoryError)
        or name == "OutOfMemoryError"
        or any(part in text for part in _OUT_OF_MEMORY)
    ):
        return "OutOfMemory", False
    if isinstance(exception, RuntimeError) and any(part in text for part in _HARDWARE):
        return "Hardware", False
    torch = sys.modules.get("torch")
    if name == "ValidationError" and type(exception).__module__.startswith("pydantic"):
        return "UserError", False
    if isinstance(exception, ConnectionError):
        return "Infrastructure", True
    if isinstance(exception, OSError) and not isinstance(exception, TimeoutError):
        return _classify_os_error(exception), False
    if isinstance(exception, TimeoutError) or (torch is not None and isinstance(exception, RuntimeError)):
        if any(part in text for part in _PEER_LOST + _FABRIC):
            return "Infrastructure", True
        if isinstance(exception, TimeoutError) or any(part in text for part in _HANG):
            return "Hang", False
        if name in ("DistBackendError", "DistNetworkError", "DistStoreError"):
            return "Infrastructure", True
    return "Unknown", False


def _classify_os_error(error: OSError) -> ReportedClass:
    """Return the class: a full or forbidden volume is a user error, a lost one an infrastructure failure."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
        return "UserError"
    if error.errno in _LOST_STORAGE:
        return "Infrastructure"
    return "OutOfMemory" if error.errno == errno.ENOMEM else "Unknown"


def one_sentence(text: str) -> str:
    """Return the first line of `text` that is not blank, cut to `MAX_MESSAGE` characters."""
    for line in text.splitlines():
        if line.strip():
            return line.strip()[:MAX_MESSAGE]
    return ""


def essence(text: str) -> str:
    """Return the sentence that matters in a message, without the advice and source lines of gloo and NCCL."""
    if text.startswith("NCCL error"):
        last_error = one_sentence(text.partition("Last error:")[2])
        return last_error or one_sentence(text)
    return _SOURCE_LINE.sub("", one_sentence(text)).partition(". This is typically caused by")[0]


def read_failures(run_dir: Path) -> list[Failure]:
    """Return the failures in the run directory, earliest first, without unreadable files."""
    failures = []
    for path in sorted(run_dir.glob("failure-*.json")):
        value = read_json(path)
        with contextlib.suppress(TypeError):
            if value is not None:
                failures.append(Failure(**value))
    return sorted(failures, key=lambda failure: failure.time)


def run_directory() -> Path | None:
    """Return the run directory of the environment, or None."""
    value = os.environ.get(Variable.RUN_DIR)
    return Path(value) if value else None
