"""The validating webhook, asked by a real API server over TLS."""

from __future__ import annotations

import base64
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from api.operator_process import OperatorProcess
from api.playground import Playground, wait_for
from cluster.api import Api, ApiError
from cluster.control_plane import ApiServer, free_ports

pytestmark = pytest.mark.api

CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
NAME = "aurl-test"


def make_certificate(directory: Path) -> str:
    """A self-signed certificate for this machine, as a mounted Secret has it; its authority in base64."""
    directory.mkdir(exist_ok=True)
    key, certificate = directory / "new.key", directory / "new.crt"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-days", "2", "-subj", "/CN=aurl-webhook", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    key.replace(directory / "tls.key")
    certificate.replace(directory / "tls.crt")
    return base64.b64encode((directory / "tls.crt").read_bytes()).decode()


@dataclass(frozen=True)
class Webhook:
    """A running operator that the API server asks."""

    api: Api
    operator: OperatorProcess
    directory: Path
    url: str

    def configure(self, authority: str) -> None:
        """Have the API server ask it, and trust it; without an answer nothing passes."""
        rule = {
            "apiGroups": ["aurl.ai"],
            "apiVersions": ["v1alpha1"],
            "operations": ["CREATE", "UPDATE"],
            "resources": ["aurltrainingjobs"],
        }
        webhook = {
            "name": "jobs.aurl.ai",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "rules": [rule],
            "clientConfig": {"url": self.url, "caBundle": authority},
        }
        body = {"metadata": {"name": NAME}, "webhooks": [webhook]}
        self.api.delete(f"{CONFIGURATIONS}/{NAME}")
        self.api.request("POST", CONFIGURATIONS, body)

    def post(self, body: bytes) -> tuple[int, str]:
        """Send something to it."""
        trusting = ssl.create_default_context(cafile=str(self.directory / "tls.crt"))
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=5, context=trusting) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def webhook(
    api_server: ApiServer, api: Api, job_kind: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Webhook]:
    """An operator with a webhook."""
    directory = tmp_path_factory.mktemp("webhook")
    authority = make_certificate(directory / "certificates")
    (port,) = free_ports(1)
    flags = ("--webhook-certificates", str(directory / "certificates"), "--webhook-port", str(port))
    with OperatorProcess(api_server.kubeconfig, directory / "log", *flags) as operator:
        found = Webhook(api, operator, directory / "certificates", f"https://127.0.0.1:{port}/validate")
        found.configure(authority)
        yield found
        api.delete(f"{CONFIGURATIONS}/{NAME}")


def refusal(ground: Playground, name: str, **changes: object) -> str:
    """What the user is told; empty where the job is taken."""
    try:
        ground.create_job(name, **changes)
    except ApiError as error:
        return str(error)
    return ""


@pytest.fixture
def asked(webhook: Webhook, ground: Playground) -> Playground:
    """A namespace in which the API server is known to ask: it learns of a configuration after a moment."""
    crooked = {"elastic": {"minNodes": 4, "maxNodes": 2}}
    wait_for("the webhook to be asked", lambda: "denied the request" in refusal(ground, "probe", **crooked))
    return ground


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"elastic": {"minNodes": 4, "maxNodes": 2}}, ["spec.elastic.minNodes", "is 4", "maxNodes"]),
        ({"elastic": {"minNodes": 3, "maxNodes": 4}}, ["spec.numNodes", "is 2", "3 to 4"]),
        ({"gangScheduling": {"provider": "Kueue"}}, ["spec.gangScheduling.queue", "LocalQueue"]),
        ({"podTemplate": {"env": [{"name": "AURL_RANK", "value": "1"}]}}, ["AURL_RANK", "operator"]),
        ({"podTemplate": {"labels": {"aurl.ai/attempt": "7"}}}, ["aurl.ai/attempt", "operator"]),
        (
            {"podTemplate": {"volumes": [{"name": "x", "mountPath": "/mnt/aurl/x", "emptyDir": {}}]}},
            ["spec.podTemplate.volumes[0].mountPath"],
        ),
    ],
)
def test_what_the_schema_cannot_say_is_refused_at_apply(
    asked: Playground, change: dict[str, object], words: list[str]
) -> None:
    said = refusal(asked, "wrong", **change)
    assert 'admission webhook "jobs.aurl.ai" denied the request: The specification is invalid' in said
    assert all(word in said for word in words), said
    assert asked.api.status(f"{asked._jobs}/wrong") == 404


def test_zero_workers_and_long_names_never_reach_it(asked: Playground) -> None:
    """The definition's own bounds refuse them first, with or without a webhook."""
    assert "spec.numNodes" in refusal(asked, "none", numNodes=0)
    assert "metadata.name" in refusal(asked, "n" * 64)


def test_a_running_job_is_edited_only_where_it_may(asked: Playground) -> None:
    asked.create_job("busy")
    asked.prepare("busy")
    asked.train("busy")
    with pytest.raises(ApiError, match=r"spec\.numNodes cannot change while it runs: suspend it first"):
        asked.patch_job("busy", {"numNodes": 3})
    with pytest.raises(ApiError, match=r"spec\.training cannot change"):
        asked.patch_job("busy", {"training": {"steps": 7}})
    assert asked.job("busy")["spec"]["numNodes"] == 2
    asked.patch_job("busy", {"runPolicy": {"backoffLimit": 7}})
    # Suspended, it may change.
    asked.patch_job("busy", {"suspend": True, "numNodes": 3})
    asked.state("busy", "Suspended")
    asked.patch_job("busy", {"suspend": False})
    asked.wait_pods("busy", "busy-1-0", "busy-1-1", "busy-1-2")
    # Even a job that could not be made today can be marked and deleted.
    asked.api.request("PATCH", f"{asked._jobs}/busy", {"metadata": {"labels": {"team": "music"}}})
    asked.delete_job("busy")


def test_nonsense_is_answered_and_harms_nothing(webhook: Webhook, asked: Playground) -> None:
    for body in (b"", b"{", b"[]", b"\xff\xfe", b'{"request": {"uid": 1}}', b"[" * 100_000):
        code, text = webhook.post(body)
        assert code == 400, (body[:20], code, text)
        assert text.startswith("The body is no")
    assert webhook.post(b"x" * 2**23)[0] == 413
    code, text = webhook.post(b'{"request": {"uid": "q", "operation": "CREATE", "object": 7}}')
    assert (code, '"allowed": false' in text) == (200, True)
    assert refusal(asked, "sound") == ""
    assert [line for line in webhook.operator.log_lines() if line["level"] == "error"] == []


def test_a_renewed_certificate_is_taken_without_a_restart(webhook: Webhook, ground: Playground) -> None:
    authority = make_certificate(webhook.directory)
    wait_for("the new certificate", lambda: "certificate was renewed" in webhook.operator.log())
    webhook.configure(authority)
    crooked = {"elastic": {"minNodes": 4, "maxNodes": 2}}
    wait_for("the server to ask again", lambda: "denied the request" in refusal(ground, "probe", **crooked))
    wait_for("a sound job to pass", lambda: refusal(ground, "sound") == "")
