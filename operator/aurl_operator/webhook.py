"""Serves the validating webhook over HTTPS; its certificate may be renewed while it runs."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

from aurl_operator.admission import ConfigMapOf, MalformedReviewError, answer
from aurl_operator.validation import ConfigCheck

log = logging.getLogger(__name__)

PATH: Final = "/validate"
#: Seconds between two looks at the certificate's files; the kubelet itself renews them once a minute.
RENEWAL_SECONDS: Final = 5.0
#: The API server stores no object larger than this, and a review holds two.
_LARGEST_BYTES: Final = 4 * 2**20


class CertificateError(Exception):
    """The certificate cannot be used; says which files and why."""


@dataclass
class Certificate:
    """`tls.crt` and `tls.key` of a directory, as a mounted Secret has them. Raises CertificateError."""

    directory: Path

    def __post_init__(self) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._loaded = self._stamp()
        self._load()

    def renew(self) -> bool:
        """Read the files again if they have changed; connections from now on get the new certificate."""
        stamp = self._stamp()
        if stamp == self._loaded:
            return False
        self._load()
        self._loaded = stamp
        return True

    def _load(self) -> None:
        try:
            self.context.load_cert_chain(self.directory / "tls.crt", self.directory / "tls.key")
        except (OSError, ssl.SSLError) as error:
            raise CertificateError(
                f"The webhook's certificate (tls.crt and tls.key in {self.directory}) is unusable: {error}"
            ) from error

    def _stamp(self) -> list[tuple[int, int]]:
        """What changes when a file is written or replaced."""
        files = (self.directory / name for name in ("tls.crt", "tls.key"))
        found = [file.stat() for file in files if file.exists()]
        return [(stat.st_mtime_ns, stat.st_ino) for stat in found]


async def serve_webhook(
    port: int, certificate: Certificate, config_map_of: ConfigMapOf, check_config: ConfigCheck
) -> web.AppRunner:
    """Listen on all addresses; the runner must be cleaned up. Raises OSError if the port is taken."""

    async def validate(request: web.Request) -> web.Response:
        try:
            review = json.loads(await request.read())
            return web.json_response(answer(review, config_map_of, check_config))
        except (ValueError, RecursionError) as error:
            text = str(error) if isinstance(error, MalformedReviewError) else "The body is not JSON."
            return web.Response(text=text, status=400)

    app = web.Application(client_max_size=_LARGEST_BYTES)
    app.router.add_post(PATH, validate)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, None, port, ssl_context=certificate.context).start()
    log.info("serving the validating webhook on port %d", runner.addresses[0][1])
    return runner


async def keep_renewed(certificate: Certificate) -> None:
    """Look for a renewed certificate for ever; one that cannot be used leaves the old one in use."""
    complained = ""
    while True:
        await asyncio.sleep(RENEWAL_SECONDS)
        try:
            if certificate.renew():
                log.info("the webhook's certificate was renewed")
        except CertificateError as error:
            # Half of the files may have been replaced: the next look is at both.
            if str(error) != complained:
                complained = str(error)
                log.warning("%s", error)
