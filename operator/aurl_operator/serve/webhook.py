"""Serves the validating webhook over HTTPS."""

from __future__ import annotations

import logging
from typing import Final

from aiohttp import web

from aurl_operator.core.admission import Admission, MalformedReviewError, answer, read_review
from aurl_operator.serve.certificate import ServerCertificate
from aurl_operator.serve.http import listen
from aurl_operator.serve.metrics import Metrics

log = logging.getLogger(__name__)

PATH: Final = "/validate"
#: The API server stores objects of up to 1.5 MiB, and a review holds two.
_LARGEST_BYTES: Final = 4 * 2**20


async def serve_webhook(
    port: int, certificate: ServerCertificate, admission: Admission, metrics: Metrics
) -> web.AppRunner:
    """Serve the webhook. Raises OSError if the port is taken."""

    async def validate(http: web.Request) -> web.Response:
        """Answer one review. Any status but 200 leaves the decision to the failurePolicy."""
        raw = await http.read()
        try:
            request = read_review(raw)
            refusal = admission.refusal(request)
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
    app = web.Application(client_max_size=_LARGEST_BYTES)
    app.router.add_post(PATH, validate)
    return await listen(app, port, "the validating webhook", certificate.context)
