"""Create a cluster's certificates, keys and kubeconfigs with openssl."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aurl_dev.cluster.shell import run

DAYS = "3650"


@dataclass(frozen=True)
class Pki:
    """The certificates and keys of a cluster, complete once the directory exists."""

    home: Path

    @property
    def ca(self) -> Path:
        """The certificate of the cluster's certificate authority."""
        return self.home / "ca.crt"

    def certificate(self, name: str) -> Path:
        """Return the certificate of `name`."""
        return self.home / f"{name}.crt"

    def key(self, name: str) -> Path:
        """Return the private key of `name`."""
        return self.home / f"{name}.key"

    @property
    def service_account_key(self) -> Path:
        """The private key that signs service account tokens."""
        return self.home / "service-account.key"

    @property
    def service_account_public(self) -> Path:
        """The public key that verifies service account tokens."""
        return self.home / "service-account.pub"

    def write_kubeconfig(self, path: Path, server: str, name: str) -> Path:
        """Write a self-contained kubeconfig for the client certificate `name`."""
        cluster = {"server": server, "certificate-authority-data": _base64(self.ca)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "aurl", "cluster": cluster}],
            "users": [
                {
                    "name": name,
                    "user": {
                        "client-certificate-data": _base64(self.certificate(name)),
                        "client-key-data": _base64(self.key(name)),
                    },
                }
            ],
            "contexts": [{"name": "aurl", "context": {"cluster": "aurl", "user": name}}],
            "current-context": "aurl",
        }
        # JSON is YAML; written to a temporary file and moved, because others may be reading.
        scratch = path.with_name(path.name + ".tmp")
        scratch.write_text(json.dumps(document, indent=1) + "\n")
        scratch.chmod(0o600)
        scratch.replace(path)
        return path


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def ensure(home: Path, server_names: Sequence[str], node: str) -> Pki:
    """Return the PKI in `home`; creates all of it or, if interrupted, nothing."""
    if home.is_dir():
        return Pki(home)
    scratch = home.with_name(home.name + ".making")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True, mode=0o700)
    made = Pki(scratch)
    _ca(made)
    addresses = ",".join(
        f"IP:{name}" if name.replace(".", "").isdigit() else f"DNS:{name}" for name in server_names
    )
    server = f"subjectAltName={addresses}\nextendedKeyUsage=serverAuth"
    _signed(made, "apiserver", "/CN=kube-apiserver", server)
    client = "extendedKeyUsage=clientAuth"
    _signed(made, "admin", "/O=system:masters/CN=admin", client)
    _signed(made, "apiserver-kubelet", "/O=system:masters/CN=kube-apiserver-kubelet", client)
    _signed(made, "controller-manager", "/CN=system:kube-controller-manager", client)
    _signed(made, "scheduler", "/CN=system:kube-scheduler", client)
    _signed(made, "proxy", "/CN=system:kube-proxy", client)
    _signed(made, "provisioner", "/O=system:masters/CN=aurl-provisioner", client)
    _signed(made, "node", f"/O=system:nodes/CN=system:node:{node}", client)
    run(["openssl", "genrsa", "-out", made.service_account_key, "2048"])
    run(
        [
            *("openssl", "rsa", "-in", made.service_account_key),
            *("-pubout", "-out", made.service_account_public),
        ]
    )
    scratch.replace(home)
    return Pki(home)


def _ca(pki: Pki) -> None:
    run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-days", DAYS, "-subj", "/CN=aurl-cluster-ca"),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature"),
            *("-keyout", pki.key("ca"), "-out", pki.ca),
        ]
    )


def _signed(pki: Pki, name: str, subject: str, extensions: str) -> None:
    request = pki.home / f"{name}.csr"
    extension_file = pki.home / f"{name}.ext"
    extension_file.write_text(extensions + "\n")
    run(
        [
            *("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-subj", subject, "-keyout", pki.key(name), "-out", request),
        ]
    )
    run(
        [
            *("openssl", "x509", "-req", "-in", request, "-days", DAYS),
            *("-CA", pki.ca, "-CAkey", pki.key("ca"), "-CAcreateserial"),
            *("-extfile", extension_file, "-out", pki.certificate(name)),
        ]
    )
    request.unlink()
    extension_file.unlink()
