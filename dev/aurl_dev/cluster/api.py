"""The smallest client of the Kubernetes API that serves here: JSON over HTTPS with a client certificate."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aurl_dev.cluster.errors import ClusterError

Object = dict[str, Any]


class ApiError(ClusterError):
    """The API server refused a request, or could not be reached (code 0)."""

    def __init__(self, method: str, path: str, code: int, message: str) -> None:
        self.code = code
        super().__init__(f"{method} {path}: {code or 'unreachable'} {message}")


def _reason(body: str) -> str:
    """What a Status object says, or the beginning of whatever else was answered."""
    try:
        message = json.loads(body)["message"]
    except (ValueError, TypeError, KeyError):
        return body[:500]
    return str(message)[:1000]


class Api:
    """One API server, as described by a kubeconfig that this package has written."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._host = urllib.parse.urlsplit(cluster["server"]).netloc
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._tls = ssl.create_default_context(cadata=authority)
        with tempfile.NamedTemporaryFile() as pair:  # the ssl module reads client keys from files only
            pair.write(base64.b64decode(user["client-certificate-data"]))
            pair.write(base64.b64decode(user["client-key-data"]))
            pair.flush()
            self._tls.load_cert_chain(pair.name)

    def request(self, method: str, path: str, body: Object | None = None, timeout: float = 10) -> Object:
        """Send one request and return the answer; raise `ApiError` for anything but success."""
        connection = self._connect(timeout)
        try:
            answer = self._send(connection, method, path, body)
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(method, path, 0, str(error)) from error
        finally:
            connection.close()
        if answer.status >= 300:
            raise ApiError(method, path, answer.status, _reason(text.decode(errors="replace")))
        try:
            return dict(json.loads(text))
        except ValueError:
            return {"text": text.decode(errors="replace")}  # /readyz answers in plain text

    def get(self, path: str) -> Object:
        """Return one object or list."""
        return self.request("GET", path)

    def status(self, path: str) -> int:
        """Return the HTTP status that a path answers with; 0 when nobody answers."""
        try:
            self.request("GET", path, timeout=5)
        except ApiError as error:
            return error.code
        return 200

    def create(self, path: str, body: Object) -> None:
        """Create an object, unless it is there already."""
        try:
            self.request("POST", path, body)
        except ApiError as error:
            if error.code != 409:
                raise

    def delete(self, path: str) -> None:
        """Delete an object, unless it is gone already."""
        try:
            self.request("DELETE", path)
        except ApiError as error:
            if error.code != 404:
                raise

    def watch(self, path: str, version: str, seconds: int) -> Iterator[Object]:
        """Yield the events of a collection since a version, for at most some seconds."""
        query = f"{path}?watch=1&resourceVersion={version}&timeoutSeconds={seconds}"
        connection = self._connect(seconds + 10.0)
        try:
            answer = self._send(connection, "GET", query, None)
            if answer.status >= 300:
                raise ApiError("GET", query, answer.status, answer.read().decode(errors="replace")[:500])
            while line := answer.readline():
                yield dict(json.loads(line))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ApiError("GET", query, 0, str(error)) from error
        finally:
            connection.close()

    def _connect(self, timeout: float) -> http.client.HTTPSConnection:
        # http.client, unlike urllib, asks no proxy for the way to a cluster on this machine.
        return http.client.HTTPSConnection(self._host, context=self._tls, timeout=timeout)

    @staticmethod
    def _send(
        connection: http.client.HTTPSConnection, method: str, path: str, body: Object | None
    ) -> http.client.HTTPResponse:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        connection.request(
            method, path, json.dumps(body) if body is not None else None, {"Content-Type": kind}
        )
        return connection.getresponse()
