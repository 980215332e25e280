"""A server's TLS certificate that is reloaded whenever its files change."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

CERTIFICATE, KEY = "tls.crt", "tls.key"
#: Seconds between two checks of the files; open connections keep the certificate they started with.
LOOK_SECONDS: Final = 2.0


class ServerCertificate:
    """`tls.crt` and `tls.key` in a directory, as in a mounted Secret of type kubernetes.io/tls.

    Handshakes fail until a valid pair was read. A pair that does not match never replaces a valid one.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._certificate, self._key = directory / CERTIFICATE, directory / KEY
        self._seen: object = None
        self._warned = ""
        self.context = _new_context()

    async def run(self) -> None:
        """Check the files forever."""
        while True:
            self.refresh()
            await asyncio.sleep(LOOK_SECONDS)

    def refresh(self) -> None:
        """Load the pair if its files have changed since the last check."""
        try:
            stats = [path.stat() for path in (self._certificate, self._key)]
            seen = [(found.st_ino, found.st_mtime_ns, found.st_size) for found in stats]
            if seen == self._seen:
                return
            # A failed load leaves a context without a matching key, so try it on another context first.
            for context in (_new_context(), self.context):
                context.load_cert_chain(self._certificate, self._key, password=_no_password)
        except (OSError, ValueError) as error:
            warning = f"cannot read the webhook's certificate in {self._directory}: {error}"
            if warning != self._warned:
                log.warning("%s", warning)
            self._warned = warning
            return
        log.info("loaded the webhook's certificate in %s", self._directory)
        self._seen, self._warned = seen, ""


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")
