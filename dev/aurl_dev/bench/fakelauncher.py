"""Answer /progress for any number of running jobs: `python -m aurl_dev.bench.fakelauncher PORT`.

It listens on all of this machine's addresses, so every address of the loopback network can be a pod.
The step follows the clock, so that answers change as those of a training job do.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime

from aiohttp import web

STEPS = 1_000_000
STEPS_PER_SECOND = 10
CHECKPOINT_EVERY = 3000
BEGAN = time.time()


def timestamp(seconds: float) -> str:
    """Return epoch seconds in the launcher's format."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def progress(_: web.Request) -> web.Response:
    """Return every field that the launcher of a training job reports."""
    now = timestamp(time.time())
    step = int((time.time() - BEGAN) * STEPS_PER_SECOND) + 1
    saved = step - step % CHECKPOINT_EVERY
    saved_at = BEGAN + saved / STEPS_PER_SECOND
    return web.json_response(
        {
            "attempt": 0,
            "state": "Training",
            "step": step,
            "totalSteps": STEPS,
            "startStep": 0,
            "loss": 3.0 - step / STEPS,
            "initialLoss": 6.5,
            "learningRate": 1e-3,
            "gradientNorm": 0.7,
            "tokensPerSecond": 84_000.0 + step % 100,
            "samplesPerSecond": 1_300.0,
            "computeSeconds": {"0": 0.1, "1": 0.1},
            "lastCheckpoint": {
                "step": saved,
                "path": f"x/checkpoints/step-{saved:08d}",
                "time": timestamp(saved_at),
            },
            "startedAt": timestamp(BEGAN),
            "firstStepAt": timestamp(BEGAN),
            "updatedAt": now,
            "heartbeatAgeSeconds": 0.1,
            "events": [],
        }
    )


def main() -> None:
    """Serve until killed."""
    app = web.Application()
    app.router.add_get("/progress", progress)
    web.run_app(app, port=int(sys.argv[1]), access_log=None, print=None)


if __name__ == "__main__":
    main()
