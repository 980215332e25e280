"""Poll for something that another process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class DeadlineExceeded(AssertionError):
    """The wait ran out of time; the message says what was awaited and what was seen last."""


def wait_for(what: str, look: Callable[[], T | None], seconds: float = 30.0, every: float = 0.05) -> T:
    """Call `look` every few milliseconds until it returns something true, and return that.

    Raises:
        DeadlineExceeded: `look` returned nothing true within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"waited {seconds:.0f} s for {what}; last seen: {found!r}")
        time.sleep(every)
    return found
