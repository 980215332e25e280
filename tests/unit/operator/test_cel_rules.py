"""The definition's CEL rules, evaluated by another implementation of CEL, agree with the operator's checks.

Servers know them from 1.25 on; the one that the tests have is older.
"""

from __future__ import annotations

from typing import Any

import celpy
import celpy.adapter
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aurl_dev.cluster.paths import CHECKOUT
from aurl_operator.core.names import job_ref
from aurl_operator.core.validation import check_spec, parse_spec
from aurl_operator.crd.resource import CEL_RULES
from unit.operator.builders import make_job

CRD = yaml.safe_load((CHECKOUT / "charts/aurl-operator/files/crd.yaml").read_text())
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
OF_A_CHANGE = "managedBy cannot be changed after creation"
BOUNDS = "elastic.minNodes must not exceed elastic.maxNodes"
BETWEEN = "numNodes must be between elastic.minNodes and elastic.maxNodes"
PLAIN = "elastic requires gangScheduling.provider Plain"
QUEUE = "gangScheduling.provider Kueue requires gangScheduling.queue, the name of a LocalQueue"


def broken(new: dict[str, Any], old: dict[str, Any] | None = None) -> set[str]:
    """The messages of the rules that a spec breaks, as the definition has them; `old` for an update."""
    environment = celpy.Environment()
    found = set()
    for rule in SCHEMA["x-kubernetes-validations"]:
        if "oldSelf" in rule["rule"] and old is None:
            continue
        program = environment.program(environment.compile(rule["rule"]))
        known = {"self": new} | ({"oldSelf": old} if old is not None else {})
        if not program.evaluate({name: celpy.adapter.json_to_cel(value) for name, value in known.items()}):
            found.add(rule["message"])
    return found


def refused(spec: dict[str, Any]) -> bool:
    """Whether the operator finds fault with a spec."""
    job = job_ref(make_job())
    typed, problems = parse_spec(spec)
    assert job is not None and typed is not None, problems
    return bool(check_spec(job, typed, lambda dataset, training: ()))


def spec(**changes: Any) -> dict[str, Any]:
    """The spec of a job; None leaves a field out."""
    return dict(make_job(**changes)["spec"])


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({}, set()),
        ({"numNodes": None}, set()),
        ({"elastic": {"minNodes": 1, "maxNodes": 4}}, set()),
        ({"elastic": {"minNodes": 4, "maxNodes": 1}}, {BOUNDS, BETWEEN}),
        ({"elastic": {"minNodes": 3, "maxNodes": 4}}, {BETWEEN}),
        ({"numNodes": None, "elastic": {"minNodes": 2, "maxNodes": 4}}, {BETWEEN}),
        ({"numNodes": 5, "elastic": {"minNodes": 2, "maxNodes": 4}}, {BETWEEN}),
        ({"elastic": {"minNodes": 1, "maxNodes": 4}, "gangScheduling": {}}, set()),
        ({"elastic": {"minNodes": 1, "maxNodes": 4}, "gangScheduling": {"provider": "Volcano"}}, {PLAIN}),
        ({"gangScheduling": {"provider": "Kueue"}}, {QUEUE}),
        ({"gangScheduling": {"provider": "Kueue", "queue": "music"}}, set()),
    ],
)  # fmt: skip
def test_the_rules_and_the_operator_agree(changes: dict[str, Any], messages: set[str]) -> None:
    assert broken(spec(**changes)) == messages
    assert refused(spec(**changes)) == bool(messages)


NODES = st.integers(1, 4)
ELASTIC = st.fixed_dictionaries({"minNodes": NODES, "maxNodes": NODES})
GANG = st.fixed_dictionaries(
    {}, optional={"provider": st.sampled_from(["Plain", "Volcano", "Kueue"]), "queue": st.just("music")}
)


@given(num=st.none() | NODES, elastic=st.none() | ELASTIC, gang=st.none() | GANG)
def test_they_agree_whatever_is_asked_for(
    num: int | None, elastic: dict[str, int] | None, gang: dict[str, str] | None
) -> None:
    asked = spec(numNodes=num, elastic=elastic, gangScheduling=gang)
    assert refused(asked) == bool(broken(asked))


@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [
        (None, None, True),
        ("kueue", "kueue", True),
        (None, "kueue", False),
        ("kueue", None, False),
        ("kueue", "other", False),
    ],
)
def test_who_manages_a_job_cannot_be_changed(old: str | None, new: str | None, allowed: bool) -> None:
    said = broken(spec(managedBy=new), spec(managedBy=old))
    assert said == (set() if allowed else {OF_A_CHANGE})


def test_every_rule_is_tried() -> None:
    assert {rule.message for rule in CEL_RULES} == {BOUNDS, BETWEEN, PLAIN, QUEUE, OF_A_CHANGE}
