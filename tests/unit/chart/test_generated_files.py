"""The CRD and the job reference are up to date and complete."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from aurl_operator.crd import reference, resource
from aurl_operator.crd.__main__ import main
from aurl_operator.crd.fields import Field, Kind
from aurl_operator.crd.structural import default_in_words
from aurl_trainer.config import TrainingConfig
from aurl_trainer.data.config import DatasetConfig

ROOT = Path(__file__).resolve().parents[3]
CRD = ROOT / "charts/aurl-operator/files/crd.yaml"
JOB_SCHEMA = ROOT / "operator/aurl_operator/schema/job.json"
DOCS = ROOT / "docs"


def _arguments(crd: Path, docs: Path) -> list[str]:
    return ["--output-crd", str(crd), "--output-docs", str(docs)]


def test_generated_files_are_fresh() -> None:
    """`make generate` would change nothing."""
    models: dict[str, type[BaseModel]] = {"dataset": DatasetConfig, "training": TrainingConfig}
    fresh = {name: model.model_json_schema(by_alias=True) for name, model in models.items()}
    assert json.loads(JOB_SCHEMA.read_text()) == fresh, "run `make generate`"
    assert main(["--check", *_arguments(CRD, DOCS)]) == 0, "run `make generate`"


def test_check_names_the_stale_file_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A changed description is detected."""
    crd = tmp_path / "crd.yaml"
    assert main(_arguments(crd, tmp_path)) == 0
    assert main(["--check", *_arguments(crd, tmp_path)]) == 0
    stale = crd.read_text().replace("Worker pods.", "Worker pod.", 1)
    crd.write_text(stale)
    capsys.readouterr()
    assert main(["--check", *_arguments(crd, tmp_path)]) == 1
    assert capsys.readouterr().err == f"{crd} is stale: run `make generate`\n"
    assert crd.read_text() == stale


def _fields(field: Field, path: str) -> Iterator[tuple[str, Field]]:
    for name, child in field.properties.items():
        yield f"{path}.{name}", child
        yield from _fields(child, f"{path}.{name}")
    if field.items is not None:
        yield from _fields(field.items, f"{path}[]")


@pytest.fixture(scope="module")
def roots() -> resource.Tree:
    """The field trees of the committed schema."""
    return resource.tree(json.loads(JOB_SCHEMA.read_text()))


def test_every_field_is_described(roots: resource.Tree) -> None:
    """`kubectl explain` describes every field."""
    bare = [path for path, field in _fields(roots.spec, "spec") if not field.description]
    bare += [path for path, field in _fields(roots.status, "status") if not field.description]
    assert bare == []


def test_every_number_of_the_spec_has_a_lower_bound(roots: resource.Tree) -> None:
    """`kubectl apply` rejects negative counts and lengths."""
    numbers = {Kind.INTEGER, Kind.NUMBER}
    unbounded = [
        path
        for path, field in _fields(roots.spec, "spec")
        if field.kind in numbers and not field.bounds.keys() & {"minimum", "exclusiveMinimum"}
    ]
    assert unbounded == []


def test_every_field_is_in_the_reference(roots: resource.Tree) -> None:
    """One row per field under the heading of its object, and one row per loss term with its defaults."""
    losses = (DOCS / reference.LOSSES_PAGE).read_text()
    sections = (DOCS / reference.PAGE).read_text().split("\n### ") + losses.split("\n## ")
    tables = {section.split("\n")[0].strip("`"): section for section in sections}
    terms = _cells(tables["Terms"])
    for root, path in ((roots.spec, "spec"), (roots.status, "status")):
        for where, field in _fields(root, path):
            parent, _, name = where.rpartition(".")
            above, _, term = parent.rpartition(".")
            if above == "spec.training.losses":
                assert f"| `{name}` |" in tables["Fields of a term"], where
                assert terms[term][f"`{name}`"] == f"`{default_in_words(field)}`", where
            elif where.startswith("spec.training.losses.") and name in terms:
                assert terms[name]["description"], where
            else:
                assert f"| `{name}` |" in tables[parent], where


def _cells(table: str) -> dict[str, dict[str, str]]:
    """The cells of a Markdown table by the name in the first column, then by heading."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if "|" in line]
    head, _, *body = rows
    return {row[0].strip("`"): dict(zip(head, row, strict=True)) for row in body}


def test_printed_columns() -> None:
    """The columns of `kubectl get atj`, each of which points at a field of the schema."""
    (version,) = yaml.safe_load(CRD.read_text())["spec"]["versions"]
    columns = version["additionalPrinterColumns"]
    shown = [column["name"].upper() for column in columns if not column.get("priority")]
    assert shown == ["STATE", "NODES", "STEP", "LOSS", "TOK/S", "CKPT", "RESTARTS", "AGE"]
    schema = version["schema"]["openAPIV3Schema"]
    for column in columns:
        head, *rest = column["jsonPath"].split("[")[0].lstrip(".").split(".")
        if head == "metadata":
            continue
        at = schema["properties"][head]
        for part in rest:
            at = at["properties"][part]
        # A string column prints values of any type.
        assert column["type"] in ("string", at["type"]), column


def test_exactly_the_cel_rules_are_marked() -> None:
    """Removing the marked lines removes the rules and nothing else."""
    text = CRD.read_text()
    older = yaml.safe_load(resource.without_cel(text))
    newer = yaml.safe_load(text)
    rules = _take_rules(newer)
    assert [rule["message"] for rule in rules] == [rule.message for rule in resource.CEL_RULES]
    assert newer == older


def _take_rules(node: Any) -> list[dict[str, str]]:
    taken: list[dict[str, str]] = []
    if isinstance(node, dict):
        taken += node.pop("x-kubernetes-validations", [])
        for child in node.values():
            taken += _take_rules(child)
    elif isinstance(node, list):
        for child in node:
            taken += _take_rules(child)
    return taken


def test_no_defaults_are_written_into_objects() -> None:
    """Defaults are only described: in the CRD they would be frozen into every object at its creation."""
    assert "default:" not in [line.strip() for line in CRD.read_text().splitlines()]
    assert "Default: 1000." in CRD.read_text()
