"""The chart without a cluster: strict lint, all toggles, and every value documented, typed and used."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_python import Chart, HelmError, lint

from aurl_dev.cluster.paths import CHART
from aurl_operator.api import base as api
from aurl_operator.settings import Settings, read_settings
from unit.chart.rendering import Object, render


def _kinds(objects: list[Object]) -> list[str]:
    return sorted(each["kind"] for each in objects)


def _one(objects: list[Object], kind: str) -> Object:
    (found,) = (each for each in objects if each["kind"] == kind)
    return found


def _container(objects: list[Object]) -> Object:
    (container,) = _one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(container)


DEFAULT_KINDS = sorted(
    [
        "ClusterRole",
        "ClusterRole",
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "Deployment",
        "Pod",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
    ]
)
GIVEN_CERTIFICATE: Object = {"enabled": True, "secretName": "mine", "caBundle": "Y2E="}


def test_strict_lint() -> None:
    """No message above the severity info."""
    messages = lint(str(CHART), {}, strict=True)["messages"]
    assert [each for each in messages if each["severity"] > 1] == []


@pytest.mark.parametrize(
    ("values", "more", "less"),
    [
        ({}, [], []),
        ({"crds": {"enabled": False}}, [], ["CustomResourceDefinition"]),
        (
            {"rbac": {"create": False}},
            [],
            ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"],
        ),
        ({"rbac": {"aggregate": False}}, [], ["ClusterRole", "ClusterRole"]),
        (
            {"watchNamespaces": ["one", "two"]},
            ["Role", "Role", "RoleBinding", "RoleBinding"],
            ["ClusterRole", "ClusterRoleBinding"],
        ),
        ({"serviceAccount": {"create": False, "name": "mine"}}, [], ["ServiceAccount"]),
        ({"metrics": {"discovery": "serviceMonitor"}}, ["PodMonitor", "ServiceMonitor"], []),
        ({"metrics": {"discovery": "podMonitor"}}, ["PodMonitor", "PodMonitor"], []),
        ({"networkPolicy": {"enabled": True}}, ["NetworkPolicy"], []),
        ({"podDisruptionBudget": {"enabled": True}}, ["PodDisruptionBudget"], []),
        ({"metrics": {"prometheusRule": {"enabled": True}}}, ["PrometheusRule"], []),
        ({"metrics": {"dashboards": {"enabled": True}}}, ["ConfigMap", "ConfigMap", "ConfigMap"], []),
        (
            {"webhook": {"enabled": True}},
            ["Certificate", "Issuer", "Service", "ValidatingWebhookConfiguration"],
            [],
        ),
        (
            {"webhook": {"enabled": True, "issuerRef": {"kind": "ClusterIssuer", "name": "ours"}}},
            ["Certificate", "Service", "ValidatingWebhookConfiguration"],
            [],
        ),
        ({"webhook": GIVEN_CERTIFICATE}, ["Service", "ValidatingWebhookConfiguration"], []),
    ],
)
def test_toggles(chart: Chart, values: Object, more: list[str], less: list[str]) -> None:
    """Each toggle adds and removes exactly its own objects."""
    expected = [*DEFAULT_KINDS, *more]
    for kind in less:
        expected.remove(kind)
    assert _kinds(render(chart, values)) == sorted(expected)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"replicas": 1}, "replicas"),
        ({"image": {"name": "x"}}, "name"),
        ({"metrics": {"discovery": "both"}}, "discovery"),
        ({"logLevel": "loud"}, "logLevel"),
        ({"workers": 0}, "workers"),
        ({"replicaCount": 10}, "replicaCount"),
        ({"leaseSeconds": 1}, "leaseSeconds"),
        ({"watchNamespaces": ["Upper"]}, "watchNamespaces"),
        ({"service": {"port": 0}}, "port"),
        ({"image": {"digest": "sha256:short"}}, "digest"),
        ({"webhook": {"failurePolicy": "Maybe"}}, "failurePolicy"),
        ({"webhook": {"caBundle": "-----BEGIN"}}, "caBundle"),
    ],
)
def test_invalid_values_are_rejected(chart: Chart, values: Object, complaint: str) -> None:
    """The message names the misspelt or out-of-range value."""
    with pytest.raises(HelmError, match=complaint):
        render(chart, values)


@pytest.mark.parametrize("version", ["1.25", kubernetes_validate.latest_version()])
def test_manifests_match_the_schemas_of_kubernetes(chart: Chart, version: str) -> None:
    """No field that a release does not know. tests/api covers Kubernetes 1.20."""
    everything = {
        "networkPolicy": {"enabled": True, "ingressFrom": [{"namespaceSelector": {}}]},
        "podDisruptionBudget": {"enabled": True},
        "imagePullSecrets": [{"name": "registry"}],
        "tolerations": [{"operator": "Exists"}],
        "extraEnv": [{"name": "TZ", "value": "UTC"}],
        "webhook": GIVEN_CERTIFICATE,
    }
    for values in (everything, {"watchNamespaces": ["one"], "webhook": GIVEN_CERTIFICATE}):
        for manifest in render(chart, values):
            kubernetes_validate.validate(manifest, version, strict=True)
    broken = _one(render(chart, {}), "Deployment")
    broken["spec"]["template"]["spec"]["hostnetwork"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="hostnetwork"):
        kubernetes_validate.validate(broken, version, strict=True)


def test_a_given_service_account_needs_a_name(chart: Chart) -> None:
    """The template checks what the schema cannot."""
    with pytest.raises(HelmError, match=r"serviceAccount\.name is required"):
        render(chart, {"serviceAccount": {"create": False}})


def test_global_values_of_a_parent_chart_are_allowed(chart: Chart) -> None:
    """A parent chart may set anything under `global`."""
    assert _kinds(render(chart, {"global": {"imageRegistry": "example.org"}})) == DEFAULT_KINDS


def test_the_operator_pod_satisfies_restricted(chart: Chart) -> None:
    """Pod Security `restricted`, for the operator and for the test pod."""
    objects = render(chart, {})
    for pod in (_one(objects, "Deployment")["spec"]["template"]["spec"], _one(objects, "Pod")["spec"]):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert all("emptyDir" in volume for volume in pod.get("volumes", []))
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    assert _one(objects, "ServiceAccount")["automountServiceAccountToken"] is False


def test_images(chart: Chart) -> None:
    """Tag and default version; a digest takes precedence."""
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    container = _container(render(chart, {}))
    assert container["image"] == f"aurl-operator:{version}"
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert environment["AURL_TRAINER_IMAGE"] == f"aurl-trainer:{version}"
    digest = "sha256:" + "0" * 64
    image = {"repository": "example.org/op", "tag": "1", "digest": digest}
    container = _container(render(chart, {"image": image, "trainer": {"image": "example.org/trainer:2"}}))
    assert container["image"] == f"example.org/op@{digest}"
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert environment["AURL_TRAINER_IMAGE"] == "example.org/trainer:2"


def test_prometheus_discovers_the_operator_in_one_way(chart: Chart) -> None:
    """Annotations and monitors are mutually exclusive."""
    for discovery, annotated in (("annotations", True), ("serviceMonitor", False), ("none", False)):
        objects = render(chart, {"metrics": {"discovery": discovery}})
        annotations = _one(objects, "Deployment")["spec"]["template"]["metadata"].get("annotations", {})
        assert ("prometheus.io/scrape" in annotations) is annotated


def test_a_given_certificate_needs_its_ca(chart: Chart) -> None:
    """The API server does not trust it otherwise."""
    with pytest.raises(HelmError, match=r"webhook\.caBundle is required"):
        render(chart, {"webhook": {"enabled": True, "secretName": "mine"}})


@pytest.mark.parametrize("given", [{"enabled": True}, GIVEN_CERTIFICATE])
def test_the_webhook_reaches_the_operator(chart: Chart, given: Object) -> None:
    """Webhook, Service, certificate, port and the operator's settings fit together."""
    objects = render(chart, {"webhook": given, "networkPolicy": {"enabled": True}})
    configuration = _one(objects, "ValidatingWebhookConfiguration")
    (webhook,) = configuration["webhooks"]
    assert webhook["failurePolicy"] == "Ignore"
    address = webhook["clientConfig"]["service"]
    (service,) = (
        each for each in objects if each["kind"] == "Service" and each["metadata"]["name"] == address["name"]
    )
    deployment = _one(objects, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert service["spec"]["ports"][0]["port"] == address["port"]
    (container,) = pod["containers"]
    (port,) = (
        each for each in container["ports"] if each["name"] == service["spec"]["ports"][0]["targetPort"]
    )
    settings = _settings(objects)
    assert settings.webhook_port == port["containerPort"]
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == "webhook")
    assert str(settings.webhook_certificates) == mount["mountPath"]
    (volume,) = (each for each in pod["volumes"] if each["name"] == "webhook")
    secret = volume["secret"]["secretName"]
    # A late Secret must not keep the operator from running jobs.
    assert volume["secret"]["optional"] is True
    if "secretName" in given:
        assert (secret, webhook["clientConfig"]["caBundle"]) == ("mine", "Y2E=")
    else:
        certificate = _one(objects, "Certificate")
        assert certificate["spec"]["secretName"] == secret
        assert certificate["spec"]["dnsNames"] == [f"{address['name']}.aurl-system.svc"]
        assert certificate["spec"]["issuerRef"]["name"] == _one(objects, "Issuer")["metadata"]["name"]
        injected = configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
        assert injected == f"aurl-system/{certificate['metadata']['name']}"
    allowed = [each["ports"][0]["port"] for each in _one(objects, "NetworkPolicy")["spec"]["ingress"]]
    assert allowed == ["http", "webhook"]


def test_rules_and_dashboards_are_passed_on_unchanged(chart: Chart) -> None:
    """Prometheus and Grafana get the files that are tested."""
    base = "https://git.example.org/aurl"
    metrics = {
        "prometheusRule": {"enabled": True, "runbookBaseUrl": base},
        "dashboards": {"enabled": True, "namespace": "monitoring", "annotations": {"folder": "Aurl"}},
        "monitorLabels": {"release": "prometheus"},
    }
    objects = render(chart, {"metrics": metrics})
    rule = _one(objects, "PrometheusRule")
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    text = (CHART / "rules/aurl.yaml").read_text().replace("url: docs/", f"url: {base}/docs/")
    assert rule["spec"] == yaml.safe_load(text)
    boards: dict[str, str] = {}
    for each in objects:
        if each["kind"] == "ConfigMap":
            assert each["metadata"]["labels"]["grafana_dashboard"] == "1"
            assert each["metadata"]["namespace"] == "monitoring"
            assert each["metadata"]["annotations"] == {"folder": "Aurl"}
            boards |= each["data"]
    assert {name: json.loads(text) for name, text in boards.items()} == {
        path.name: json.loads(path.read_text()) for path in (CHART / "dashboards").glob("*.json")
    }


def _settings(objects: list[Object]) -> Settings:
    """The operator's settings, read from the container's environment."""
    environment = {each["name"]: str(each["value"]) for each in _container(objects)["env"]}
    used: set[str] = set()

    class Watched(dict[str, str]):
        def get(self, key: str, default: Any = None) -> Any:
            used.add(key)
            return super().get(key, default)

    settings = read_settings([], Watched(environment))
    assert environment.keys() <= used, "a variable that the operator does not read"
    return settings


def test_values_reach_the_operator(chart: Chart) -> None:
    """Every setting of the operator can be set, and its defaults are the chart's."""
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    bare = read_settings(["--trainer-image", f"aurl-trainer:{version}"], {})
    assert _settings(render(chart, {})) == replace(bare, lease=("aurl-system", "aurl-aurl-operator"))
    values = {
        "trainer": {"image": "example.org/trainer:2", "imagePullPolicy": "Never"},
        "jobNetworkPolicy": False,
        "logLevel": "DEBUG",
        "workers": 3,
        "progressIntervalSeconds": 0.5,
        "resyncIntervalSeconds": 20,
        "watchIdleSeconds": 15,
        "leaseSeconds": 20,
        "watchNamespaces": ["one"],
    }
    assert _settings(render(chart, values)) == Settings(
        trainer_image="example.org/trainer:2",
        trainer_image_pull_policy="Never",
        job_network_policy=False,
        namespaces=("one",),
        progress_interval=0.5,
        resync_interval=20,
        workers=3,
        http_port=8080,
        log_level="DEBUG",
        lease=("aurl-system", "aurl-aurl-operator"),
        lease_seconds=20,
        watch_idle_seconds=15,
        webhook_certificates="",
        webhook_port=9443,
    )


def test_namespaced_mode_watches_what_its_roles_allow(chart: Chart) -> None:
    """The operator watches exactly the namespaces in which it has a Role."""
    objects = render(chart, {"watchNamespaces": ["one", "two"]})
    roles = [
        each["metadata"]["namespace"]
        for each in objects
        if each["kind"] == "Role" and not each["metadata"]["name"].endswith("-lease")
    ]
    assert _settings(objects).namespaces == tuple(roles) == ("one", "two")


def test_no_permission_for_network_policies_that_are_switched_off(chart: Chart) -> None:
    """A disabled feature needs no permission."""
    for wanted in (True, False):
        rules = [
            rule
            for each in render(chart, {"jobNetworkPolicy": wanted})
            if each["kind"] == "ClusterRole"
            for rule in each["rules"]
        ]
        assert any("networkpolicies" in rule["resources"] for rule in rules) == wanted


def test_permissions_are_minimal(chart: Chart) -> None:
    """No secrets, no exec, no RBAC, no CRDs, no wildcards."""
    objects = render(chart, {})
    (role,) = (
        each for each in objects if each["kind"] == "ClusterRole" and "-jobs-" not in each["metadata"]["name"]
    )
    granted = {
        (group, name) for rule in role["rules"] for group in rule["apiGroups"] for name in rule["resources"]
    }
    assert {group for group, _ in granted} == {
        "",
        "networking.k8s.io",
        "scheduling.volcano.sh",
        "scheduling.x-k8s.io",
        api.GROUP,
    }
    assert not {name for _, name in granted} & {"secrets", "pods/exec", "serviceaccounts", "*"}
    assert not {verb for rule in role["rules"] for verb in rule["verbs"]} & {
        "*",
        "escalate",
        "bind",
        "impersonate",
    }


def test_replicas_hand_over_and_prefer_different_nodes(chart: Chart) -> None:
    """An upgrade starts the new replica first; the anti-affinity can be replaced."""
    spec = _one(render(chart, {}), "Deployment")["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert "affinity" not in spec["template"]["spec"]
    pair = _one(render(chart, {"replicaCount": 2}), "Deployment")["spec"]
    (term,) = pair["template"]["spec"]["affinity"]["podAntiAffinity"][
        "preferredDuringSchedulingIgnoredDuringExecution"
    ]
    assert term["podAffinityTerm"]["labelSelector"] == pair["selector"]
    own: Object = {"nodeAffinity": {}}
    chosen = _one(render(chart, {"replicaCount": 2, "affinity": own}), "Deployment")["spec"]
    assert chosen["template"]["spec"]["affinity"] == own


def test_only_one_lease_may_be_read_and_written(chart: Chart) -> None:
    """The operator's own lease, in its own namespace, with the configured name."""
    objects = render(chart, {})
    role = _one(objects, "Role")
    assert role["metadata"]["namespace"] == "aurl-system"
    name = {each["name"]: each.get("value") for each in _container(objects)["env"]}["AURL_LEASE"]
    assert name == f"aurl-system/{role['rules'][1]['resourceNames'][0]}"
    assert role["rules"][0]["verbs"] == ["create"]
    assert role["rules"][1]["verbs"] == ["get", "update"]


def test_names_fit_and_are_unique_per_release(chart: Chart) -> None:
    """The longest release name still yields valid object names."""
    for release in ("aurl", "aurl-operator", "r" * 53):
        for each in render(chart, {}, release):
            name = each["metadata"]["name"]
            assert len(name) <= 63 or each["kind"].startswith("ClusterRole"), name


def test_the_crd_is_kept_by_default(chart: Chart) -> None:
    """`crds.keep` decides whether uninstalling deletes all jobs."""
    kept = _one(render(chart, {}), "CustomResourceDefinition")
    assert kept["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    loose = _one(render(chart, {"crds": {"keep": False}}), "CustomResourceDefinition")
    assert "annotations" not in loose["metadata"]
    committed = yaml.safe_load((CHART / "files/crd.yaml").read_text())
    assert kept["spec"] == committed["spec"]
    assert kept["metadata"]["name"] == committed["metadata"]["name"]


def _leaves(values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in values.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict) and value and key not in ("requests", "limits", "capabilities", "labels"):
            yield from _leaves(value, here)
        else:
            yield here


def test_every_value_is_described_typed_and_read() -> None:
    """Every value has a `# --` comment, an entry in the schema, and a template that reads it."""
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    schema = json.loads((CHART / "values.schema.json").read_text())
    templates = "".join(path.read_text() for path in (CHART / "templates").rglob("*.*"))
    opaque = {"resources", "podSecurityContext", "securityContext"}
    for path in _leaves({key: {} if key in opaque else value for key, value in values.items()}):
        at = schema
        for part in path.split("."):
            at = at["properties"][part]
        assert path == "global" or f".Values.{path}" in templates, f"{path} is read by no template"
        key = path.rpartition(".")[2]
        assert re.search(rf"# -- .*\n( *# .*\n)* *{key}:", text), f"{path} has no comment"
