"""Every switch of the chart, one at a time: the manifests are valid, and the notes name the next steps."""

from __future__ import annotations

import re

import kubernetes_validate
import pytest
import yaml
from helm_python import Chart

from aurl_dev.cluster.paths import CHART
from chart_switches import switches, unsampled
from job_schema import check_job
from unit.chart.rendering import Object, render, render_files

#: API groups of CRDs, for which the library has no schema.
FOREIGN = ("monitoring.coreos.com/", "cert-manager.io/")
ABOUT: Object = yaml.safe_load((CHART / "Chart.yaml").read_text())


def _notes(chart: Chart, values: Object) -> str:
    return render_files(chart, values)["aurl-operator/templates/NOTES.txt"]


def test_every_value_is_tried_with_a_non_default_setting() -> None:
    """A new value that is empty by default needs a sample in tests/chart_switches.py."""
    assert unsampled() == []
    assert len(switches()) > 40


@pytest.mark.parametrize("version", ["1.25", kubernetes_validate.latest_version()])
def test_each_switch_renders_valid_manifests(chart: Chart, version: str) -> None:
    """One at a time. tests/api covers Kubernetes 1.20."""
    judged: set[str] = set()
    for name, values in switches().items():
        for text in render_files(chart, values).values():
            if text in judged or "apiVersion:" not in text or "kubectl" in text:
                continue
            judged.add(text)
            for manifest in filter(None, yaml.safe_load_all(text)):
                if not manifest["apiVersion"].startswith(FOREIGN):
                    try:
                        kubernetes_validate.validate(manifest, version, strict=True)
                    except kubernetes_validate.ValidationError as error:
                        raise AssertionError(f"{name}: {manifest['kind']}: {error}") from error
    assert len(judged) > 40


@pytest.mark.parametrize("discovery", ["serviceMonitor", "podMonitor"])
def test_monitors_select_existing_ports(chart: Chart, discovery: str) -> None:
    """Selector, port and path of a monitor match the Service or the pods."""
    objects = render(chart, {"metrics": {"discovery": discovery}})
    by_kind = {each["kind"]: each for each in objects if not each["metadata"]["name"].endswith("-jobs")}
    pod = by_kind["Deployment"]["spec"]["template"]
    ports = {each["name"] for each in pod["spec"]["containers"][0]["ports"]}
    if discovery == "serviceMonitor":
        monitor, found = by_kind["ServiceMonitor"]["spec"], by_kind["Service"]["metadata"]["labels"]
        endpoints = monitor["endpoints"]
        assert endpoints[0]["port"] in {each["name"] for each in by_kind["Service"]["spec"]["ports"]}
    else:
        monitor, found = by_kind["PodMonitor"]["spec"], pod["metadata"]["labels"]
        endpoints = monitor["podMetricsEndpoints"]
        assert endpoints[0]["port"] in ports
    assert monitor["selector"]["matchLabels"].items() <= found.items()
    assert [each["path"] for each in endpoints] == ["/metrics"]


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["music", "research"]}])
def test_the_commands_in_the_notes_work(chart: Chart, values: Object) -> None:
    """The example is a valid job in a watched namespace; the Deployment is the chart's."""
    notes = _notes(chart, values)
    (pasted,) = re.findall(
        r"^kubectl -n (\S+) apply -f - <<'EOF'\n(.*?)^EOF$", notes, re.DOTALL | re.MULTILINE
    )
    namespace, text = pasted
    assert namespace == values.get("watchNamespaces", ["default"])[0]
    job = yaml.safe_load(text)
    check_job(job, "the notes")
    assert f"get atj {job['metadata']['name']} --watch" in notes
    (deployment,) = (each for each in render(chart, values) if each["kind"] == "Deployment")
    assert f"-n aurl-system rollout status deployment/{deployment['metadata']['name']}" in notes
    assert "helm test aurl --namespace aurl-system" in notes


def test_the_notes_mention_a_paused_operator_and_a_missing_crd(chart: Chart) -> None:
    """The notes say what the user has to do."""
    assert "scale deployment/aurl-aurl-operator --replicas=1" in _notes(chart, {"replicaCount": 0})
    assert "install the CRD aurltrainingjobs.aurl.ai yourself" in _notes(chart, {"crds": {"enabled": False}})


def test_the_annotations_for_artifact_hub_match_the_chart() -> None:
    """Kind, name, example job and images are those of the chart."""
    said = {key.partition("/")[2]: yaml.safe_load(text) for key, text in ABOUT["annotations"].items()}
    crd = yaml.safe_load((CHART / "files/crd.yaml").read_text())
    (told,) = said["crds"]
    assert told["name"] == crd["metadata"]["name"]
    assert told["kind"] == crd["spec"]["names"]["kind"]
    assert told["version"] == crd["spec"]["versions"][0]["name"]
    for example in said["crdsExamples"]:
        check_job(example, "artifacthub.io/crdsExamples")
    images = {each["name"]: each["image"] for each in said["images"]}
    version = ABOUT["appVersion"]
    assert images == {"operator": f"aurl-operator:{version}", "trainer": f"aurl-trainer:{version}"}
    assert {each["kind"] for each in said["changes"]} <= {
        "added",
        "changed",
        "deprecated",
        "removed",
        "fixed",
        "security",
    }
