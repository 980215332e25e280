"""The webhook's server under large and slow reviews; certificates are tested on a real API server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, cast

import aiohttp
import pytest

from aurl_operator.api.training_schema import load_schema
from aurl_operator.core.admission import Admission
from aurl_operator.core.validation import config_checker
from aurl_operator.serve.certificate import ServerCertificate
from aurl_operator.serve.metrics import Metrics
from aurl_operator.serve.webhook import LARGEST_BYTES, PATH, serve_webhook

Object = dict[str, Any]


class NoCertificate:
    """Plain HTTP."""

    context = None

    def refresh(self) -> None:
        """Do nothing."""


class SlowAdmission:
    """Takes a while for each review, and counts how many it judges at a time."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def refusal(self, request: Mapping[str, Any]) -> str:
        self.now += 1
        self.most = max(self.most, self.now)
        time.sleep(0.5)
        self.now -= 1
        return "no"


def review(spec: Object) -> bytes:
    """Return the review of a new job."""
    request = {
        "uid": "u",
        "operation": "CREATE",
        "namespace": "music",
        "name": "bach",
        "resource": {"group": "aurl.ai", "resource": "aurltrainingjobs"},
        "object": {"metadata": {"name": "bach"}, "spec": spec},
    }
    body = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}
    return json.dumps(body).encode()


def test_reviews_are_judged_one_at_a_time_and_off_the_event_loop() -> None:
    slow, ticks = SlowAdmission(), [0.0]

    async def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.01)

    async def scenario() -> list[tuple[int, str]]:
        runner = await serve_webhook(
            0, cast(ServerCertificate, NoCertificate()), cast(Admission, slow), Metrics()
        )
        # IPv4 and IPv6 each have a free port of their own.
        port = next(address[1] for address in runner.addresses if ":" not in address[0])
        url = f"http://127.0.0.1:{port}{PATH}"

        async def post(raw: bytes) -> tuple[int, str]:
            async with session.post(url, data=raw) as response:
                return response.status, await response.text()

        async with aiohttp.ClientSession() as session:
            ticking = asyncio.create_task(tick())
            reviews = [review({}), review({}), review({}), b" " * (LARGEST_BYTES + 1)]
            answers = await asyncio.gather(*map(post, reviews))
            ticking.cancel()
        await runner.cleanup()
        return answers

    *answers, refused = asyncio.run(scenario())
    assert [code for code, _ in answers] == [200, 200, 200]
    assert refused == (413, "The review is larger than 1 MiB, the most that is judged here.\n")
    assert slow.most == 1
    assert max(b - a for a, b in pairwise(ticks[1:])) < 0.4


@pytest.mark.parametrize(
    "spec",
    [
        {"podTemplate": {"volumes": [{"name": f"v{i}", "mountPath": "/x"} for i in range(25_000)]}},
        {"training": {"steps": 4, "hooks": {"losses": [{"a": 1}] * 80_000}}},
        {"training": {f"key{i}": 1 for i in range(50_000)}},
        {"podTemplate": {"env": [{"x": 1}] * 100_000}},
    ],
    ids=["volumes", "losses", "keys", "variables"],
)
def test_the_largest_review_costs_little(spec: Object) -> None:
    """Judging costs the most where every part of the spec is wrong."""
    base = {"storage": {"claimName": "x"}, "dataset": {"source": {"directory": {"path": "m"}}}}
    raw = review({**base, "training": {"steps": 4}, **spec})
    assert len(raw) < 1.2 * LARGEST_BYTES
    admission = Admission(lambda key: None, lambda uid: None, config_checker(load_schema()))
    start = time.process_time()
    assert admission.refusal(json.loads(raw)["request"])
    assert time.process_time() - start < 1.5
