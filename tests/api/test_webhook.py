"""The validating webhook on a real API server, as the chart registers it, with its own CA.

The API server accepts any job here, so every rejection comes from the webhook.
"""

from __future__ import annotations

import base64
import copy
import json
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python import Chart

from api.api_harness import JOB, JobNamespace
from api.conftest import Kubectl, defined, loose_definition
from aurl_dev.cluster import pki
from aurl_dev.cluster.api_server import ApiServer
from aurl_dev.kube import ApiError, Kube
from aurl_dev.operator_process import OperatorProcess
from aurl_dev.ports import free_port
from aurl_dev.waiting import wait_for

pytestmark = pytest.mark.api

Object = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
HOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
LABEL = "webhook-test"


@pytest.fixture(scope="module")
def job_kind(api: Kube) -> Iterator[None]:
    """A server that validates nothing."""
    with defined(api, loose_definition()):
        yield


class Certificates:
    """A directory like a mounted Secret, and the CA of its certificate."""

    def __init__(self, home: Path) -> None:
        self._home, self.directory = home, home / "mounted"
        self.directory.mkdir()
        self._number = 0

    def issue(self) -> pki.Pki:
        """Replace the certificate by one from a new CA."""
        self._number += 1
        made = pki.ensure(self._home / f"pki-{self._number}", ["127.0.0.1"], "none")
        for name, source in (("tls.crt", made.certificate("apiserver")), ("tls.key", made.key("apiserver"))):
            shutil.copy(source, self.directory / f"{name}.new")
            (self.directory / f"{name}.new").replace(self.directory / name)
        return made


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """The operator's certificate directory."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def authority(certificates: Certificates) -> pki.Pki:
    """The CA of the operator's first certificate."""
    return certificates.issue()


class Hooked(OperatorProcess):
    """An operator that serves the webhook."""

    def __init__(self, kubeconfig: Path, log: Path, certificates: Path, *flags: str) -> None:
        self.hook_port = free_port()
        hook = ("--webhook-port", str(self.hook_port), "--webhook-certificates", str(certificates))
        super().__init__(kubeconfig, log, *hook, *flags)

    @property
    def url(self) -> str:
        """The webhook's URL."""
        return f"https://127.0.0.1:{self.hook_port}/validate"

    def post(self, raw: bytes, trusted: pki.Pki) -> tuple[int, str]:
        """POST a body to the webhook; return status and answer, status 0 if the connection fails."""
        context = ssl.create_default_context(cafile=str(trusted.ca))
        try:
            asked = urllib.request.Request(self.url, raw)
            with urllib.request.urlopen(asked, timeout=10, context=context) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""


@pytest.fixture(scope="module")
def operator(
    api_server: ApiServer,
    job_kind: None,
    certificates: Certificates,
    authority: pki.Pki,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Hooked]:
    """The operator with its webhook."""
    log = tmp_path_factory.mktemp("operator") / "log"
    with Hooked(api_server.kubeconfig, log, certificates.directory) as process:
        yield process
    for line in process.log_lines():
        assert line["level"] not in ("error", "critical"), line


def registration(policy: str, url: str, authority: pki.Pki) -> Object:
    """Return the configuration as the chart renders it, except that the webhook is on this machine."""
    bundle = base64.b64encode(authority.ca.read_bytes()).decode()
    hook = {"enabled": True, "secretName": "given", "caBundle": bundle, "failurePolicy": policy}
    files = Chart.load(str(ROOT / "charts/aurl-operator")).render(
        {"webhook": hook}, name="aurl", namespace="aurl-system"
    )
    found = [
        document
        for text in files.values()
        if "ValidatingWebhookConfiguration" in text
        for document in yaml.safe_load_all(text)
        if document and document["kind"] == "ValidatingWebhookConfiguration"
    ]
    (made,) = found
    made["metadata"]["name"] = "webhook-test"
    (webhook,) = made["webhooks"]
    assert webhook["clientConfig"].pop("service")["path"] == "/validate"
    webhook["clientConfig"]["url"] = url
    webhook["namespaceSelector"] = {"matchLabels": {LABEL: "yes"}}
    return dict(made)


def register(api: Kube, policy: str, url: str, authority: pki.Pki) -> None:
    """Register the webhook with the API server."""
    if api.status(f"{HOOKS}/webhook-test") == 200:
        api.delete(f"{HOOKS}/webhook-test")
    api.request("POST", HOOKS, registration(policy, url, authority))


@pytest.fixture
def hooked(api: Kube, operator: Hooked, authority: pki.Pki, ns: JobNamespace) -> Iterator[JobNamespace]:
    """A namespace for which the API server calls the webhook, with failurePolicy Fail."""
    api.request("PATCH", f"/api/v1/namespaces/{ns.namespace}", {"metadata": {"labels": {LABEL: "yes"}}})
    register(api, "Fail", operator.url, authority)

    def asked() -> bool:
        try:
            ns.create_job("probe", numNodes=0)
        except ApiError as error:
            return "denied the request" in str(error)
        ns.delete_job("probe")
        return False

    wait_for("the API server to call the webhook", asked)
    yield ns
    api.delete(f"{HOOKS}/webhook-test")


def manifest(ns: JobNamespace, name: str, changes: Object) -> Object:
    """Return a job; `changes` replace fields of its spec, None removes them."""
    made = copy.deepcopy(JOB)
    made["metadata"] = {"name": name, "namespace": ns.namespace}
    spec = made["spec"] | changes
    made["spec"] = {key: value for key, value in spec.items() if value is not None}
    return made


ELASTIC: Object = {"elastic": {"minNodes": 1, "maxNodes": 3}}
REFUSED: list[tuple[str, str, Object, str]] = [
    ("a name whose pods overflow 63 characters", "b" * 51, {}, "use at most 50 characters"),
    ("a name that is not a DNS name", "bach.chorales", {}, "is not valid for a Service"),
    ("zero workers", "zero", {"numNodes": 0}, "spec.numNodes: "),
    ("elastic bounds", "bounds", ELASTIC | {"numNodes": 4}, "is 4 but spec.elastic allows 1 to 3"),
    ("minimum over maximum", "order", {"elastic": {"minNodes": 3, "maxNodes": 1}}, "spec.elastic.minNodes"),
    ("a reference elsewhere", "far", {"storage": {"claimName": "other/claim"}}, "spec.storage.claimName"),
    ("two volumes", "two", {"storage": {"claimName": "a", "claimTemplate": {"size": "1Gi"}}}, "exactly one"),
    ("Kueue without queue", "queue", {"gangScheduling": {"provider": "Kueue"}}, "must name a LocalQueue"),
    (
        "elastic Volcano",
        "both",
        ELASTIC | {"gangScheduling": {"provider": "Volcano"}},
        "remove spec.elastic",
    ),
    (
        "a reserved label",
        "own",
        {"podTemplate": {"labels": {"aurl.ai/role": "x"}}},
        "belongs to the operator",
    ),
    ("a privilege", "root", {"podTemplate": {"hostPID": True}}, "spec.podTemplate.hostPID"),
    ("a misspelt key", "typo", {"training": {"stepz": 4}}, "'stepz' was unexpected"),
    ("a value out of bounds", "bound", {"training": {"steps": 0}}, "spec.training.steps"),
]


@pytest.mark.parametrize(("name", "changes", "said"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_kubectl_apply_is_rejected_with_one_message(
    hooked: JobNamespace, kubectl: Kubectl, name: str, changes: Object, said: str
) -> None:
    applied = kubectl("apply", "--validate=false", "-f", "-", given=manifest(hooked, name, changes))
    assert applied.returncode != 0, applied.stdout
    (line,) = applied.stderr.strip().splitlines()
    assert 'admission webhook "jobs.aurl.ai" denied the request: The specification is invalid: ' in line
    assert said in line
    assert line.endswith(".")


def test_the_project_s_job_files_pass(hooked: JobNamespace, kubectl: Kubectl) -> None:
    files = sorted((ROOT / "configs/jobs").glob("*.yaml"))
    assert files
    for path in files:
        arguments = ("apply", "--validate=false", "--dry-run=server", "-n", hooked.namespace, "-f", str(path))
        applied = kubectl(*arguments)
        assert applied.returncode == 0, f"{path.name}: {applied.stderr}"


def test_edits_of_a_running_job(hooked: JobNamespace, kubectl: Kubectl) -> None:
    def edit(changes: Object) -> str:
        patch = json.dumps({"spec": changes})
        arguments = ("patch", "atj", "fixed", "-n", hooked.namespace, "--type=merge", "-p", patch)
        return kubectl(*arguments).stderr.strip()

    hooked.create_job("fixed", **ELASTIC)
    hooked.prepare("fixed")
    hooked.train("fixed")
    for changes, said in (
        ({"image": "other"}, "spec.image cannot change while the job runs: suspend it first."),
        ({"training": {"steps": 5}}, "spec.training cannot change"),
        ({"elastic": {"maxNodes": 5}}, "spec.elastic cannot change"),
        ({"numNodes": 4}, "spec.numNodes: is 4 but spec.elastic allows 1 to 3"),
        ({"runPolicy": {"backoffLimit": -1}}, "spec.runPolicy.backoffLimit"),
    ):
        assert said in edit(changes)
    scale = ("scale", "atj/fixed", "-n", hooked.namespace)
    assert "spec.elastic allows 1 to 3" in kubectl(*scale, "--replicas=4").stderr
    assert hooked.condition("fixed", "Stalled")["status"] == "False"
    assert edit({"runPolicy": {"activeDeadlineSeconds": 3600}}) == ""
    assert kubectl(*scale, "--replicas=1").returncode == 0
    hooked.train("fixed", attempt=1, nodes=1)
    assert edit({"suspend": True}) == ""
    hooked.state("fixed", "Suspended")
    # A suspended job may be changed in any valid way.
    assert edit({"image": "other", "numNodes": 2, "elastic": None, "suspend": False}) == ""
    wait_for("two workers", lambda: sum("-prepare-" not in name for name in hooked.pods("fixed")) == 2)
    assert "spec.numNodes cannot change" in kubectl(*scale, "--replicas=1").stderr


def test_conformance_managed_by_is_immutable(hooked: JobNamespace) -> None:
    hooked.create_job("ours", suspend=True)
    hooked.create_job("foreign", managedBy="kueue.x-k8s.io/multikueue")
    for name, manager in (("ours", "somebody"), ("foreign", "aurl.ai/operator"), ("foreign", None)):
        with pytest.raises(ApiError, match=r"spec\.managedBy cannot be changed"):
            hooked.patch_job(name, {"managedBy": manager})


def test_malformed_reviews_are_answered(operator: Hooked, authority: pki.Pki) -> None:
    head = b'{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"'
    kind = b'{"group": "aurl.ai", "version": "v1alpha1", "resource": "aurltrainingjobs"}'
    for raw, code in (
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"\xff", 400),
        (b"[" * 100_000, 400),
        (head + b"}", 400),
        (head + b', "request": 5}', 400),
        (head + b', "request": {"uid": "u"}}', 200),
        (head + b', "request": {"uid": "u", "resource": %b, "operation": "CREATE"}}' % kind, 400),
        (
            head + b', "request": {"uid": "u", "resource": %b, "operation": "CREATE", "object": {}}}' % kind,
            200,
        ),
        (b" " * (9 * 2**20), 413),
    ):
        assert operator.post(raw, authority)[0] == code, raw[:200]
    assert operator.get("/healthz") == (200, "ok")
    assert operator.metric("aurl_operator_admissions_total", result="error") == 0
    assert operator.metric("aurl_operator_admissions_total", result="malformed") > 5


def test_a_standby_replica_answers_too(
    api_server: ApiServer,
    ns: JobNamespace,
    certificates: Certificates,
    authority: pki.Pki,
    job_kind: None,
    tmp_path: Path,
) -> None:
    lease = ("--lease", f"{ns.namespace}/aurl", "--lease-seconds", "30")
    where = (api_server.kubeconfig, tmp_path / "one", certificates.directory)
    with Hooked(*where, *lease) as leader:
        wait_for("the first replica to lead", leader.is_leader)
        with Hooked(where[0], tmp_path / "two", where[2], *lease) as waiting:
            body = {
                "apiVersion": "admission.k8s.io/v1",
                "kind": "AdmissionReview",
                "request": {
                    "uid": "u",
                    "operation": "CREATE",
                    "resource": {"group": "aurl.ai", "version": "v1alpha1", "resource": "aurltrainingjobs"},
                    "namespace": ns.namespace,
                    "object": manifest(ns, "zero", {"numNodes": 0}),
                },
            }
            answers = [each.post(json.dumps(body).encode(), authority) for each in (leader, waiting)]
            assert not waiting.is_leader()
            assert answers[0] == answers[1]
            assert json.loads(answers[0][1])["response"]["allowed"] is False


def test_a_renewed_certificate_is_used_without_a_restart(
    operator: Hooked, certificates: Certificates, authority: pki.Pki
) -> None:
    assert operator.post(b"", authority)[0] == 400
    # An incomplete pair does not replace the current one.
    key = (certificates.directory / "tls.key").read_bytes()
    (certificates.directory / "tls.key").write_text("no key")
    wait_for("the warning", lambda: "cannot read the webhook's certificate" in operator.log())
    assert operator.post(b"", authority)[0] == 400
    (certificates.directory / "tls.key").write_bytes(key)
    renewed = certificates.issue()
    wait_for("the new certificate", lambda: operator.post(b"", renewed)[0] == 400)
    assert operator.post(b"", authority)[0] == 0
    for name, source in (("tls.crt", "apiserver"), ("tls.key", "apiserver")):
        old = authority.certificate(source) if name == "tls.crt" else authority.key(source)
        shutil.copy(old, certificates.directory / name)
    wait_for("the first certificate", lambda: operator.post(b"", authority)[0] == 400)


def test_an_unreachable_operator_blocks_nobody_unless_configured_to(
    api: Kube, hooked: JobNamespace, operator: Hooked, authority: pki.Pki
) -> None:
    operator.stop()
    try:
        with pytest.raises(ApiError, match="failed calling webhook"):
            hooked.create_job("shut")
        register(api, "Ignore", operator.url, authority)

        def let_through() -> bool:
            try:
                hooked.create_job("open")
            except ApiError as error:
                assert "failed calling webhook" in str(error)
                return False
            return True

        wait_for("the API server to stop calling the webhook", let_through)
    finally:
        operator.start()
    hooked.state("open", "Preparing")
