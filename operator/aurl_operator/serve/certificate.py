"""A server's TLS certificate in files that somebody renews: read anew whenever they change."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

CERTIFICATE, KEY = "tls.crt", "tls.key"
#: Seconds between two looks at the files; connections that are open keep the certificate they began with.
LOOK_SECONDS: Final = 2.0


class ServerCertificate:
    """`tls.crt` and `tls.key` in a directory, as a Secret of type kubernetes.io/tls is mounted.

    Before there is a sound pair, handshakes fail; a pair that does not fit never replaces one that did.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._certificate, self._key = directory / CERTIFICATE, directory / KEY
        self._seen: object = None
        self._complained = ""
        self.context = _new_context()

    async def run(self) -> None:
        """Look after the files, for ever."""
        while True:
            self.refresh()
            await asyncio.sleep(LOOK_SECONDS)

    def refresh(self) -> None:
        """Take the pair in the files if it has changed since the last look."""
        try:
            seen = [(found.st_ino, found.st_mtime_ns, found.st_size) for found in self._stats()]
            if seen == self._seen:
                return
            # A failed load leaves a context without a key that fits, so another one is tried first.
            for context in (_new_context(), self.context):
                context.load_cert_chain(self._certificate, self._key, password=_no_password)
        except (OSError, ValueError) as error:
            self._complain(f"cannot read the webhook's certificate in {self._directory}: {error}")
            return
        log.info("the webhook's certificate in %s was read", self._directory)
        self._seen, self._complained = seen, ""

    def _stats(self) -> list[os.stat_result]:
        return [path.stat() for path in (self._certificate, self._key)]

    def _complain(self, text: str) -> None:
        if text != self._complained:
            log.warning("%s", text)
        self._complained = text


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")
