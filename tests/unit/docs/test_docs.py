"""The documentation matches the repository: links, make targets, fields, job files and metrics."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
import yaml
from helm_python import Chart

from aurl_operator.serve.metrics import Metrics
from job_schema import check_job, crd_schema
from pages import JOB_FILES, PAGES, ROOT, anchors, manifests


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    prose = re.sub(r"`[^`]*`", "", page.read_text())
    targets = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", prose)
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing
    for target, anchor in re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", prose):
        assert anchor in anchors(page.parent / target if target else page), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_in_the_prose_exist(page: Path) -> None:
    folders = "charts|configs|dev|docs|images|operator|tests|trainer"
    named = re.findall(rf"`((?:{folders})/[\w./*-]+)`", page.read_text())
    assert [path for path in named if not any(ROOT.glob(path.rstrip("/")))] == []


def test_the_index_has_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text()
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages == set(re.findall(r"\]\(([\w-]+\.md)", index))


def test_anchors_are_those_of_github(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# The `spec.a` of [a job](b.md), *again*\n```sh\n# no heading\n```\n## Twice\n## Twice\n"
    )
    assert anchors(page) == {"the-speca-of-a-job-again", "twice", "twice-1"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"`make ([a-z][a-z0-9-]*)", page.read_text()))
    named |= set(re.findall(r"^make ([a-z][a-z0-9-]*)", page.read_text(), re.MULTILINE))
    assert not {target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_explained_fields_exist(page: Path) -> None:
    for path in re.findall(r"kubectl explain aurltrainingjob\.([A-Za-z0-9.]+)", page.read_text()):
        schema = crd_schema()
        for key in path.split("."):
            assert key in schema["properties"], f"{path}: no {key}"
            schema = schema["properties"][key]


def test_the_readme_shows_a_job() -> None:
    assert "AurlTrainingJob" in [manifest.get("kind") for manifest in manifests(ROOT / "README.md")]


@pytest.mark.parametrize("file", JOB_FILES, ids=lambda file: file.name)
def test_job_files_are_valid(file: Path) -> None:
    check_job(yaml.safe_load(file.read_text()), file.name)


def test_a_wrong_job_would_be_noticed() -> None:
    job = yaml.safe_load(JOB_FILES[0].read_text())
    job["spec"]["training"]["stepz"] = 1
    with pytest.raises(jsonschema.ValidationError):
        check_job(job, "a wrong job")


def operations() -> str:
    """The administrator's page."""
    return (ROOT / "docs/operations.md").read_text()


def test_every_metric_of_the_operator_is_in_the_contracts() -> None:
    metrics = Metrics()
    metrics.export(tuple, lambda: 0.0, lambda: 0.0, lambda: True)
    counters = {"counter": "_total"}
    served = {f"{each.name}{counters.get(each.type, '')}" for each in metrics.registry.collect()}
    rows = (ROOT / "docs/contracts.md").read_text().splitlines()
    documented = {
        name
        for row in rows
        if row.startswith("| `aurl_op")
        for name in re.findall(r"`(aurl_operator_\w+)`", row)
    }
    assert documented == {name for name in served if name.startswith("aurl_operator_")}


def test_metrics_on_the_operations_page_are_the_operators() -> None:
    metrics = Metrics()
    metrics.export(tuple, lambda: 0.0, lambda: 0.0, lambda: True)
    families = [family.name for family in metrics.registry.collect()]
    known = {*families, *(f"{name}_total" for name in families)}
    named = {name.removesuffix("_bucket") for name in re.findall(r"aurl_operator_[a-z_]+", operations())}
    assert len(named) > 8
    assert named <= known


def test_messages_on_the_operations_page_are_the_operators() -> None:
    sources = sorted((ROOT / "operator/aurl_operator").rglob("*.py"))
    code = "\n".join(file.read_text() for file in sources)
    quoted = re.findall(r"^\| (?:log|`/healthz`|`/readyz`): `([^`]+)`", operations(), re.MULTILINE)
    assert len(quoted) > 5
    parts = [part for message in quoted for part in message.split("…")]
    assert [part for part in parts if part not in code] == []


def test_kubectl_on_the_operations_page_names_real_objects() -> None:
    """Deployment and lease have the names that the chart gives them for the release on the page."""
    chart = Chart.load(str(ROOT / "charts/aurl-operator"))
    objects = "\n".join(chart.render({}, name="aurl", namespace="aurl-system").values())
    found = re.findall(r"(deployment/|lease/|get lease )([a-z-]+)", operations())
    assert len(found) > 4
    for kind, name in found:
        assert name == "aurl-aurl-operator", kind
    assert "name: aurl-aurl-operator" in objects
    assert 'value: "aurl-system/aurl-aurl-operator"' in objects


def test_the_picture_of_the_architecture_names_real_files() -> None:
    svg = "{http://www.w3.org/2000/svg}"
    picture = ElementTree.parse(ROOT / "docs/images/architecture.svg")
    parts = {part.attrib["data-root"]: part for part in picture.iter() if "data-root" in part.attrib}
    assert sorted(parts) == ["operator/aurl_operator", "trainer/aurl_trainer"]
    for root, part in parts.items():
        named = [text.text for text in part.iter() if text.get("class") in ("file", "inline-file")]
        assert len(named) > 10
        assert [name for name in named if not (ROOT / root / str(name)).is_file()] == []
    words = "\n".join(text for element in picture.iter(f"{svg}text") for text in element.itertext())
    assert set(re.findall(r"[\w/]+\.py", words)) == {
        text.text for text in picture.iter() if text.get("class") in ("file", "inline-file")
    }


def test_the_folders_of_the_architecture_are_those_of_the_packages() -> None:
    table = (ROOT / "docs/architecture.md").read_text().partition("## Folders")[2]
    named: set[Path] = set()
    for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE):
        first, *others = re.findall(r"`([^`]+)`", cell)
        named |= {ROOT / first, *(ROOT / first.rpartition("/")[0] / other.split("/")[-1] for other in others)}
    assert [folder for folder in named if not folder.is_dir()] == []
    for package in (ROOT / "operator/aurl_operator", ROOT / "trainer/aurl_trainer"):
        assert {file.parent for file in package.glob("*/__init__.py")} <= named
