"""The chart on a real API server: install, upgrade, uninstall, and exactly the rights the operator needs."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator

import pytest
import yaml
from helm_python import Chart

from aurl_dev import crd
from aurl_dev.cluster import helm, system
from aurl_dev.cluster.api_server import ApiServer
from aurl_dev.cluster.paths import CHART
from aurl_dev.kube import GROUP, Kube, jobs_path
from aurl_dev.waiting import wait_for
from chart_switches import switches

pytestmark = pytest.mark.api

NAMESPACE, TENANT = "chart-test", "chart-tenant"
RBAC = "rbac.authorization.k8s.io"
REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
HOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
OPERATOR = f"system:serviceaccount:{NAMESPACE}:aurl-aurl-operator"
GROUPS = ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"]
# No kubelet runs the operator.
HELD: helm.Values = {"replicaCount": 0}

READ = ("get", "list", "watch")
WRITE = ("create", "update", "patch", "delete")
VERBS = (*READ, *WRITE, "deletecollection", "bind", "escalate", "impersonate", "use", "*")
NEEDED: dict[tuple[str, str], set[str]] = {
    (GROUP, "aurltrainingjobs"): {*READ, "delete"},
    (GROUP, "aurltrainingjobs/status"): {"patch"},
    ("", "pods"): {*READ, "create", "delete"},
    ("", "services"): {*READ, "create", "delete"},
    ("", "configmaps"): {*READ, "create", "patch"},
    ("", "persistentvolumeclaims"): {*READ, "create", "patch"},
    ("networking.k8s.io", "networkpolicies"): {*READ, "create"},
    ("scheduling.volcano.sh", "podgroups"): {"get", "create", "delete"},
    ("scheduling.x-k8s.io", "podgroups"): {"get", "create", "delete"},
    ("", "events"): {"create", "patch"},
}
FORBIDDEN: tuple[tuple[str, str], ...] = (
    ("*", "*"),
    ("", "secrets"),
    ("", "pods/exec"),
    ("", "pods/attach"),
    ("", "pods/portforward"),
    ("", "pods/proxy"),
    ("", "pods/log"),
    ("", "pods/status"),
    ("", "pods/binding"),
    ("", "pods/eviction"),
    ("", "pods/ephemeralcontainers"),
    ("", "services/proxy"),
    ("", "endpoints"),
    ("", "serviceaccounts"),
    ("", "serviceaccounts/token"),
    ("", "nodes"),
    ("", "nodes/proxy"),
    ("", "namespaces"),
    ("", "persistentvolumes"),
    ("", "resourcequotas"),
    ("", "limitranges"),
    ("", "users"),
    ("", "groups"),
    ("apps", "deployments"),
    ("apps", "daemonsets"),
    ("batch", "jobs"),
    ("storage.k8s.io", "storageclasses"),
    ("scheduling.k8s.io", "priorityclasses"),
    ("policy", "podsecuritypolicies"),
    (RBAC, "roles"),
    (RBAC, "rolebindings"),
    (RBAC, "clusterroles"),
    (RBAC, "clusterrolebindings"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "apiservices"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("certificates.k8s.io", "certificatesigningrequests"),
    ("authentication.k8s.io", "tokenreviews"),
    (GROUP, "aurltrainingjobs/finalizers"),
    (GROUP, "aurltrainingjobs/scale"),
)
JOBS: tuple[str, ...] = ("aurltrainingjobs", "aurltrainingjobs/status", "aurltrainingjobs/scale")
EDITOR: dict[str, set[str]] = {
    "aurltrainingjobs": {*READ, *WRITE, "deletecollection"},
    "aurltrainingjobs/status": set(),
    "aurltrainingjobs/scale": {"get", "update", "patch"},
}
#: What Kubernetes' user-facing roles may do with jobs once the chart has extended them.
PEOPLE: dict[str, dict[str, set[str]]] = {
    "view": {**{key: set() for key in JOBS}, "aurltrainingjobs": set(READ)},
    "edit": EDITOR,
    "admin": EDITOR,
}


@pytest.fixture(scope="module")
def admin(api_server: ApiServer) -> Iterator[Kube]:
    """The administrator's client, with empty namespaces and without the CRD."""
    kube = Kube(api_server.kubeconfig)
    # That of another module may still be terminating.
    wait_for("the CRD to be gone", lambda: kube.status(crd.PATH) == 404)
    for name in (NAMESPACE, TENANT):
        kube.ensure_namespace(name)
    yield kube
    kube.delete(crd.PATH)
    for name in (NAMESPACE, TENANT):
        kube.delete(f"/api/v1/namespaces/{name}")
    wait_for("the CRD to be gone", lambda: kube.status(crd.PATH) == 404)


def _install(api_server: ApiServer, values: helm.Values) -> None:
    helm.install(api_server.kubeconfig, "aurl", CHART, NAMESPACE, {**HELD, **values})


def _allowed(admin: Kube, user: str, namespace: str, group: str, resource: str, named: str = "") -> set[str]:
    """Return the verbs that a user may use on a resource, as `kubectl auth can-i` does."""
    name, _, sub = resource.partition("/")
    allowed = set()
    for verb in VERBS:
        review = {
            "spec": {
                "user": user,
                "groups": GROUPS if user == OPERATOR else ["system:authenticated"],
                "resourceAttributes": {
                    "namespace": namespace,
                    "verb": verb,
                    "group": group,
                    "resource": name,
                    "name": named,
                    "subresource": sub,
                },
            }
        }
        if admin.request("POST", REVIEWS, review)["status"]["allowed"]:
            allowed.add(verb)
    return allowed


def _check_matrix(admin: Kube, namespace: str, needed: dict[tuple[str, str], set[str]]) -> None:
    """Compare every verb on every relevant resource with the rights the operator should have."""
    for group, resource in [*NEEDED, *FORBIDDEN]:
        allowed = _allowed(admin, OPERATOR, namespace, group, resource)
        assert allowed == needed.get((group, resource), set()), f"{resource} in {namespace}"


def _check_lease(admin: Kube) -> None:
    """One Lease, in the operator's namespace."""
    lease = ("coordination.k8s.io", "leases")
    assert _allowed(admin, OPERATOR, TENANT, *lease) == set()
    assert _allowed(admin, OPERATOR, NAMESPACE, *lease) == {"create"}
    mine = "aurl-aurl-operator"
    assert _allowed(admin, OPERATOR, NAMESPACE, *lease, named=mine) == {"create", "get", "update"}
    assert _allowed(admin, OPERATOR, NAMESPACE, *lease, named="other") == {"create"}


def test_install_upgrade_uninstall(admin: Kube, api_server: ApiServer) -> None:
    """One release from installation to removal; jobs and CRD outlive it."""
    path, jobs = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/aurl-aurl-operator", jobs_path(TENANT)
    _install(api_server, {})
    assert admin.get(path)["spec"]["template"]["spec"]["serviceAccountName"] == "aurl-aurl-operator"
    job = {
        "apiVersion": f"{GROUP}/v1alpha1",
        "kind": "AurlTrainingJob",
        "metadata": {"name": "survivor"},
        "spec": {
            "storage": {"claimName": "mine"},
            "dataset": {"source": {"music21Corpus": {}}},
            "training": {},
        },
    }
    uid = admin.request("POST", jobs, job)["metadata"]["uid"]

    # Everything enabled, as far as the server knows the kinds.
    _install(
        api_server,
        {
            "logLevel": "DEBUG",
            "networkPolicy": {"enabled": True, "ingressFrom": [{"namespaceSelector": {}}]},
            "podDisruptionBudget": {"enabled": True},
            "commonLabels": {"team": "music"},
            "webhook": {"enabled": True, "secretName": "given", "caBundle": "Y2E=", "timeoutSeconds": 1},
        },
    )
    deployment = admin.get(path)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert {each["name"]: each.get("value") for each in container["env"]}["AURL_LOG_LEVEL"] == "DEBUG"
    assert deployment["metadata"]["labels"]["team"] == "music"
    assert admin.items(f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies")
    assert [hook["metadata"]["name"] for hook in admin.items(HOOKS)] == [f"{NAMESPACE}-aurl-aurl-operator"]
    # Without a running operator, jobs are still admitted.
    admin.request("POST", jobs, {**job, "metadata": {"name": "unseen"}})
    admin.request("DELETE", f"{jobs}/unseen")

    helm.uninstall(api_server.kubeconfig, "aurl", NAMESPACE)
    assert admin.status(path) == 404
    assert not admin.items(HOOKS)
    assert admin.status(crd.PATH) == 200
    assert admin.get(f"{jobs}/survivor")["metadata"]["uid"] == uid

    # A new release of the same name adopts the kept CRD.
    _install(api_server, {})
    helm.uninstall(api_server.kubeconfig, "aurl", NAMESPACE)
    admin.request("DELETE", f"{jobs}/survivor")


def test_the_operator_has_the_rights_it_needs_and_no_others(admin: Kube, api_server: ApiServer) -> None:
    """Cluster-wide: the same in every namespace."""
    _install(api_server, {})
    try:
        _check_matrix(admin, TENANT, NEEDED)
        _check_matrix(admin, "", NEEDED)
        _check_lease(admin)
    finally:
        helm.uninstall(api_server.kubeconfig, "aurl", NAMESPACE)


def test_namespaced_mode_gives_rights_in_the_named_namespaces_only(
    admin: Kube, api_server: ApiServer
) -> None:
    """A Role per watched namespace, and nothing cluster-wide."""
    _install(api_server, {"watchNamespaces": [TENANT], "jobNetworkPolicy": False})
    try:
        rest = {key: verbs for key, verbs in NEEDED.items() if key[1] != "networkpolicies"}
        _check_matrix(admin, TENANT, rest)
        for elsewhere in ("default", NAMESPACE, "kube-system", ""):
            _check_matrix(admin, elsewhere, {})
        _check_lease(admin)
    finally:
        helm.uninstall(api_server.kubeconfig, "aurl", NAMESPACE)


def test_user_facing_roles_include_jobs(admin: Kube, api_server: ApiServer) -> None:
    """Viewers of a namespace see its jobs, editors run them, and nobody writes a status."""
    bindings = f"/apis/{RBAC}/v1/namespaces/{TENANT}/rolebindings"
    _install(api_server, {})
    try:
        for role in PEOPLE:
            binding = {
                "metadata": {"name": role},
                "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
                "subjects": [{"apiGroup": RBAC, "kind": "User", "name": role}],
            }
            admin.request("POST", bindings, binding)
        # The controller-manager aggregates the chart's rules into the roles.
        wait_for("the aggregation", lambda: _allowed(admin, "view", TENANT, GROUP, JOBS[0]))
        wait_for("the aggregation", lambda: _allowed(admin, "admin", TENANT, GROUP, JOBS[0]))
        for user, rights in {**PEOPLE, "stranger": {key: set[str]() for key in JOBS}}.items():
            for resource in JOBS:
                allowed = _allowed(admin, user, TENANT, GROUP, resource)
                assert allowed == rights[resource], f"{user}: {resource}"
                assert _allowed(admin, user, "default", GROUP, resource) == set(), user
        assert _allowed(admin, "view", TENANT, "", "secrets") == set()
    finally:
        for role in PEOPLE:
            admin.delete(f"{bindings}/{role}")
        helm.uninstall(api_server.kubeconfig, "aurl", NAMESPACE)


def test_the_server_accepts_every_switch(
    api_server: ApiServer, admin: Kube, echo: Callable[[str], None]
) -> None:
    """One at a time, rendered for its version; kubectl rejects a field that the server does not know."""
    system.ensure(system.KUBECTL, echo)
    chart = Chart.load(str(CHART))

    def known_here(values: helm.Values) -> bool:
        """Return whether the server knows all kinds of the objects, which Helm checks."""
        text = "".join(chart.render(values, name="aurl", namespace=NAMESPACE).values())
        return not re.search(r"^apiVersion: (monitoring\.coreos\.com|cert-manager\.io)/", text, re.MULTILINE)

    tried = {name: values for name, values in switches().items() if known_here(values)}
    manifests = helm.would_install(api_server.kubeconfig, CHART, NAMESPACE, tried)
    documents: dict[str, str] = {}
    for name, manifest in manifests.items():
        for document in filter(None, yaml.safe_load_all(manifest)):
            documents.setdefault(yaml.safe_dump(document), name)
    assert len(documents) > len(manifests) > 40
    # The namespaces of namespaced mode do not exist; their objects are checked all the same.
    texts = [text.replace("namespace: one\n", f"namespace: {TENANT}\n") for text in documents]
    for absent in ("two", "monitoring"):
        texts = [text.replace(f"namespace: {absent}\n", f"namespace: {TENANT}\n") for text in texts]
    done = subprocess.run(
        ["kubectl", f"--kubeconfig={api_server.kubeconfig}", "apply", "--dry-run=server", "-f", "-"],
        input="---\n".join(texts),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("(server dry run)") == len(texts)
