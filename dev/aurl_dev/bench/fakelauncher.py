"""Stands in for the launchers of any number of running jobs: `python -m aurl_dev.bench.fakelauncher PORT`.

It listens on all of this machine's addresses, so every address of the loopback network is a pod of its own.
The step moves with the clock: each answer is another one, as that of a job that trains.
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


def told(seconds: float) -> str:
    """Epoch seconds as a launcher tells them."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def progress(_: web.Request) -> web.Response:
    """What a launcher tells of a job that trains, at full length."""
    now = told(time.time())
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
                "time": told(saved_at),
            },
            "startedAt": told(BEGAN),
            "firstStepAt": told(BEGAN),
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
