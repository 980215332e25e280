"""Serves the validating webhook over HTTPS."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from aurl_operator.core.admission import Admission, MalformedReviewError, answer, read_review
from aurl_operator.serve.certificate import ServerCertificate
from aurl_operator.serve.http import listen
from aurl_operator.serve.metrics import Metrics

log = logging.getLogger(__name__)

PATH: Final = "/validate"
#: Largest review: a job is a few KiB, and a review holds two versions of it.
LARGEST_BYTES: Final = 2**20


async def serve_webhook(
    port: int, certificate: ServerCertificate, admission: Admission, metrics: Metrics
) -> web.AppRunner:
    """Serve the webhook. Raises OSError if the port is taken."""

    # One at a time, in a thread: a large review takes half a second, and the lease must be renewed.
    slot = asyncio.Semaphore(1)

    def judge(raw: bytes) -> tuple[Mapping[str, Any], str]:
        request = read_review(raw)
        return request, admission.refusal(request)

    async def validate(http: web.Request) -> web.Response:
        """Answer one review. Any status but 200 leaves the decision to the failurePolicy."""
        try:
            raw = await http.read()
        except web.HTTPRequestEntityTooLarge:
            metrics.admissions.labels("malformed").inc()
            text = f"The review is larger than {LARGEST_BYTES // 2**20} MiB, the most that is judged here.\n"
            return web.Response(text=text, status=413)
        try:
            async with slot:
                request, refusal = await asyncio.to_thread(judge, raw)
        except MalformedReviewError as error:
            metrics.admissions.labels("malformed").inc()
            return web.Response(text=f"{error}\n", status=400)
        except Exception:
            metrics.admissions.labels("error").inc()
            log.exception("failed to review a request")
            return web.Response(text="internal error, see the operator's log\n", status=500)
        metrics.admissions.labels("refused" if refusal else "allowed").inc()
        return web.json_response(answer(request, refusal))

    certificate.refresh()
    app = web.Application(client_max_size=LARGEST_BYTES)
    app.router.add_post(PATH, validate)
    return await listen(app, port, "the validating webhook", certificate.context)
