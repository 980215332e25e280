"""Diagnosis of a broken collective: which ranks are missing, and whether they hang or are gone."""

from __future__ import annotations

import time
from datetime import timedelta

from torch._C._distributed_c10d import Store

from aurl_trainer.errors import AurlError, HangError, PeerLostError

ROLL_CALL_SECONDS = 2.0
"""Seconds that a rank whose collective failed waits for the others to report the same."""

_KEY = "aurl/failed/"
HUNG, LOST = "hung", "lost"


def roll_call(store: Store, rank: int, world_size: int, what: str) -> tuple[list[int], bool]:
    """Report that this rank lives and saw `HUNG` or `LOST`; return the silent ranks, and if any saw a hang.

    The first rank to give up breaks its connections, so the others may see a lost peer when one hangs.
    """
    seen = {rank: what}
    deadline = time.monotonic() + ROLL_CALL_SECONDS
    try:
        store.set_timeout(timedelta(seconds=ROLL_CALL_SECONDS))
        store.set(f"{_KEY}{rank}", what)
        while len(seen) < world_size - 1 and time.monotonic() < deadline:
            for other in range(world_size):
                if other not in seen and store.check([f"{_KEY}{other}"]):
                    seen[other] = store.get(f"{_KEY}{other}").decode()
            time.sleep(0.02)
    except RuntimeError:
        return [], what == HUNG  # the store is gone, with the rank that hosts it
    missing = [other for other in range(world_size) if other not in seen]
    return missing, HUNG in seen.values()


def explain(rank: int, step: int, seconds: float, missing: list[int], hang: bool, reason: str) -> AurlError:
    """Return the error for a collective of `step` that failed on `rank` because of `reason`."""
    who = " and ".join(f"rank {other}" for other in missing) or "another rank"
    if hang:
        return HangError(
            f"Rank {rank} waited up to {seconds:g} s in step {step} for {who}, which did not answer: it "
            "hangs, or its node cannot be reached (training.distribution.timeoutSeconds limits the wait "
            "after the first step)."
        )
    return PeerLostError(f"{who} disconnected in step {step}: {reason}")
