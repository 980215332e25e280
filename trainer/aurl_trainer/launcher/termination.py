"""The termination message of a pod: at most 4096 bytes of valid JSON."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from aurl_trainer.contract import TERMINATION_MESSAGE_LIMIT, ProgressKey, TerminationKey
from aurl_trainer.launcher.outcome import Outcome
from aurl_trainer.launcher.progress import plain_json
from aurl_trainer.metrics import StepMetrics, ValidationMetrics, final_keys
from aurl_trainer.monitor.snapshot import JobSnapshot


def build(outcome: Outcome, progress: dict[str, Any], dataset: dict[str, Any] | None) -> dict[str, Any]:
    """Return the message; `progress` is the last `/progress`, `dataset` describes a prepared dataset."""
    message: dict[str, Any] = {
        TerminationKey.STATE: outcome.state,
        TerminationKey.CLASS: outcome.failure_class,
        TerminationKey.RANK: outcome.rank,
        TerminationKey.EXIT_CODE: outcome.exit_code,
        TerminationKey.SIGNAL: outcome.signal,
        TerminationKey.EXCEPTION: outcome.exception,
        TerminationKey.MESSAGE: outcome.message,
        TerminationKey.PEER_LOST: outcome.peer_lost,
    }
    final = [*final_keys(JobSnapshot), *final_keys(StepMetrics), *final_keys(ValidationMetrics)]
    message.update(
        {key: progress.get(key) for key in (ProgressKey.STEP, *final, ProgressKey.LAST_CHECKPOINT)}
    )
    if dataset is not None:
        message[TerminationKey.DATASET] = dataset
    return message


def encode(message: dict[str, Any], limit: int = TERMINATION_MESSAGE_LIMIT) -> bytes:
    """Return the message as UTF-8 JSON of at most `limit` bytes; the longest values are shortened first.

    Numbers that are not finite become null. Raises ValueError if even an object of empty values is too long.
    """
    shortened = plain_json(message)
    while len(encoded := _dump(shortened)) > limit:
        if not _shorten_longest(shortened, len(encoded) - limit):
            raise ValueError(f"the keys alone exceed {limit} bytes")
    return encoded


def write(path: Path, message: dict[str, Any]) -> None:
    """Write the message to the file that the kubelet reads; raises OSError if that fails."""
    path.write_bytes(encode(message))


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(
        "utf-8", "replace"
    )


def _shorten_longest(message: dict[str, Any], excess: int) -> bool:
    """Shorten the longest string or list, at any depth, by about `excess` bytes."""
    holder, key = _longest(message)
    if holder is None:
        return False
    value = holder[key]
    if isinstance(value, str) and len(value) > 1:
        # A character takes up to six bytes in JSON: cutting `excess` characters is never too little.
        keep = max(0, len(value) - excess - 1, len(value) // 2 if excess > len(value) else 0)
        holder[key] = value[: min(keep, len(value) - 2)] + "…" if keep else ""
    elif isinstance(value, list) and value:
        holder[key] = value[: len(value) // 2]
    else:
        holder[key] = None
    return True


def _longest(value: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Return the object and the key of the longest value; objects are searched, not shortened."""
    best: tuple[dict[str, Any] | None, str] = (None, "")
    most = len(_dump(None))
    for key, item in value.items():
        holder, inner = value, key
        if isinstance(item, dict):
            nested, nested_key = _longest(item)
            if nested is None:
                if len(_dump(item)) <= most:
                    continue
            else:
                holder, inner = nested, nested_key
        size = len(_dump(holder[inner]))
        if size > most:
            best, most = (holder, inner), size
    return best


def write_if_possible(path: Path, message: dict[str, Any]) -> bool:
    """Write the message; return False if that failed, which must not change the exit code."""
    with contextlib.suppress(OSError):
        write(path, message)
        return True
    return False
