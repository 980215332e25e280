"""Read a kubeconfig into what an HTTP client needs: server address, TLS settings, headers."""

from __future__ import annotations

import ssl
import tempfile
from base64 import b64decode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Access:
    """Address and credentials of one API server."""

    server: str
    tls: ssl.SSLContext
    headers: dict[str, str] = field(default_factory=dict)


def read(kubeconfig: Path) -> Access:
    """Return the access that the current context of a kubeconfig describes."""
    config = yaml.load(kubeconfig.read_text(), yaml.CSafeLoader)
    chosen = _named(config, "contexts", config.get("current-context"))
    cluster, user = (_named(config, f"{kind}s", chosen.get(kind)) for kind in ("cluster", "user"))
    if "certificate-authority-data" in cluster and "client-key-data" in user:
        return Access(cluster["server"], _client_tls(cluster, user))
    return _any_kind(kubeconfig)


def _named(config: dict[str, Any], kinds: str, name: str | None) -> dict[str, Any]:
    found = [one[kinds.removesuffix("s")] for one in config.get(kinds) or [] if one["name"] == name]
    return dict(found[0] or {}) if found else {}


def _client_tls(cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext:
    tls = ssl.create_default_context(cadata=b64decode(cluster["certificate-authority-data"]).decode())
    with tempfile.NamedTemporaryFile() as pair:  # the ssl module reads client keys from files only
        pair.write(b64decode(user["client-certificate-data"]) + b64decode(user["client-key-data"]))
        pair.flush()
        tls.load_cert_chain(pair.name)
    return tls


def _any_kind(kubeconfig: Path) -> Access:
    """Read tokens, login plugins and files with the official client, which is slow to import."""
    import kubernetes

    found = kubernetes.client.Configuration()
    kubernetes.config.load_kube_config(str(kubeconfig), client_configuration=found)
    tls = ssl.create_default_context(cafile=found.ssl_ca_cert)
    if not found.verify_ssl:
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    if found.cert_file:
        tls.load_cert_chain(found.cert_file, found.key_file)
    token = found.get_api_key_with_prefix("BearerToken", alias="authorization")
    return Access(found.host, tls, {"Authorization": token} if token else {})
