"""The validating webhook: refused and allowed requests, and malformed ones."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aurl_operator.api.spec import MANAGED_BY
from aurl_operator.api.training_schema import load_schema
from aurl_operator.core.admission import Admission, MalformedReviewError, answer, read_review
from aurl_operator.core.objects import config_data
from aurl_operator.core.validation import config_checker, parse_spec
from aurl_operator.core.views import job_view, object_view
from unit.operator.builders import make_job, running
from unit.operator.test_hostile_objects import JSON, paths, spoil

Object = dict[str, Any]
SPEC: Object = {
    "numNodes": 2,
    "storage": {"claimTemplate": {"size": "1Gi"}},
    "dataset": {"source": {"music21Corpus": {"collection": "chorales"}}},
    "training": {"steps": 400},
}
ELASTIC: Object = {"elastic": {"minNodes": 1, "maxNodes": 3}}
STARTED: Object = {"startTime": "2026-01-01T00:00:00Z"}
CHECK = config_checker(load_schema())


def job(name: str = "bach", status: Object | None = None, **spec: Any) -> Object:
    """Return a job; `spec` replaces fields of SPEC, None removes them."""
    merged = {**copy.deepcopy(SPEC), **spec}
    made: Object = {
        "metadata": {"name": name, "namespace": "music", "uid": "u-1"},
        "spec": {key: value for key, value in merged.items() if value is not None},
    }
    return made | ({"status": status} if status else {})


def request(obj: object, old: object = None, sub: str = "", namespace: str = "music") -> Object:
    """Return the request of a review."""
    return {
        "uid": "r-1",
        "operation": "CREATE" if old is None else "UPDATE",
        "resource": {"group": "aurl.ai", "version": "v1alpha1", "resource": "aurltrainingjobs"},
        "subResource": sub,
        "namespace": namespace,
        "object": obj,
        "oldObject": old,
    }


def refusal(
    asked: Mapping[str, Any],
    known: Object | None = None,
    config_map: Object | None = None,
    namespaces: tuple[str, ...] = (),
) -> str:
    """Return why a request is refused; `known` and `config_map` are in the operator's store."""
    job_seen = job_view(known) if known else None
    config_map_seen = object_view(config_map) if config_map else None
    return Admission(lambda key: job_seen, lambda uid: config_map_seen, CHECK, namespaces).refusal(asked)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (job("b" * 51), "metadata.name: The name"),
        (job("Bach"), "metadata.name"),
        (job("b" * 50, numNodes=1000) | {}, ""),
        (job(numNodes=0), "spec.numNodes"),
        (job(numNodes=4, **ELASTIC), "spec.numNodes: is 4 but spec.elastic allows 1 to 3"),
        (job(elastic={"minNodes": 3, "maxNodes": 2}), "spec.elastic.minNodes: is 3"),
        (job(elastic={"minNodes": 0, "maxNodes": 2}), "spec.elastic.minNodes"),
        (job(storage={"claimName": "other/claim"}), "spec.storage.claimName"),
        (job(storage={"claimName": "a", "claimTemplate": {"size": "1Gi"}}), "spec.storage: give exactly one"),
        (job(storage={"claimTemplate": {"size": "2 GB"}}), "spec.storage.claimTemplate.size"),
        (job(gangScheduling={"provider": "Kueue"}), "spec.gangScheduling.queue: must name a LocalQueue"),
        (job(gangScheduling={"provider": "Volcano"}, **ELASTIC), "spec.gangScheduling.provider"),
        (job(podTemplate={"labels": {"aurl.ai/role": "x"}}), "belongs to the operator"),
        (job(podTemplate={"env": [{"name": "AURL_UID", "value": "0"}]}), "spec.podTemplate.env[0].name"),
        (
            job(podTemplate={"volumes": [{"name": "v", "mountPath": "/mnt/aurl/x", "emptyDir": {}}]}),
            "spec.podTemplate.volumes[0].mountPath",
        ),
        (job(podTemplate={"hostNetwork": True}), "spec.podTemplate.hostNetwork"),
        (job(training={"stepz": 3}), "spec.training"),
        (job(training={"model": {"dropout": 2}}), "spec.training.model.dropout"),
        (job(storage=None), "spec.storage"),
        ({"metadata": {"name": "bare"}}, "spec.storage"),
    ],
)
def test_new_jobs(made: Object, message: str) -> None:
    found = refusal(request(made))
    assert message in found if message else found == ""
    assert not message or (found.startswith("The specification is invalid: ") and found.endswith("."))


def test_a_generated_name_counts_with_what_will_be_appended() -> None:
    made = job()
    made["metadata"] = {"generateName": "b" * 45}
    assert refusal(request(made)) == ""
    made["metadata"] = {"generateName": "b" * 46}
    assert "metadata.name" in refusal(request(made))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({}, {"numNodes": 3}, "spec.numNodes cannot change while the job runs: suspend it first."),
        ({}, {"image": "x", "training": {"steps": 5}}, "spec.image, spec.training cannot change"),
        ({}, {"suspend": True}, ""),
        ({}, {"suspend": True, "numNodes": 3}, ""),
        ({}, {"runPolicy": {"activeDeadlineSeconds": 5}}, ""),
        ({}, {"runPolicy": {"backoffLimit": -1}}, "spec.runPolicy.backoffLimit"),
        (ELASTIC, ELASTIC | {"numNodes": 3}, ""),
        (ELASTIC, ELASTIC | {"numNodes": 4}, "spec.numNodes: is 4"),
        (ELASTIC, {"elastic": {"minNodes": 1, "maxNodes": 9}, "numNodes": 9}, "spec.numNodes, spec.elastic"),
        ({}, ELASTIC, "spec.elastic cannot change"),
    ],
)
def test_edits_of_a_running_job(before: Object, after: Object, message: str) -> None:
    old = job(status=STARTED, **before)
    found = refusal(request(job(status=STARTED, **after), old))
    assert message in found if message else found == ""
    # Before it starts and after it has finished, any valid spec may be written.
    for status in (None, STARTED | {"state": "Succeeded", "completionTime": "2026-01-01T01:00:00Z"}):
        found = refusal(request(job(**after), job(status=status, **before)))
        assert ("cannot change" in found) is False


def test_what_the_job_was_started_with_counts_not_what_was_written_since() -> None:
    spec, _ = parse_spec(job()["spec"])
    assert spec is not None
    memory: Object = {"data": config_data(spec)}
    old = job(status=STARTED, image="refused")  # written while the webhook was away
    assert refusal(request(job(status=STARTED), old), config_map=memory) == ""
    assert "spec.image cannot" in refusal(request(job(status=STARTED, image="other"), old), None, memory)
    # The earlier edit is no reason to refuse a later, valid one.
    deadline = job(status=STARTED, image="refused", runPolicy={"activeDeadlineSeconds": 60})
    assert refusal(request(deadline, old), config_map=memory) == ""


def test_scaling() -> None:
    known: Object | None = job(status=STARTED, **ELASTIC)

    def scaled(nodes: object) -> str:
        scale = {"metadata": {"name": "bach"}, "spec": {"replicas": nodes}}
        return refusal(request(scale, scale, sub="scale"), known)

    assert (scaled(1), scaled(3)) == ("", "")
    assert "spec.numNodes: is 4 but spec.elastic allows 1 to 3" in scaled(4)
    assert "spec.numNodes" in scaled(0)
    known = job(status=STARTED)
    assert "spec.numNodes cannot change" in scaled(3)
    known = None  # one that this operator has not seen yet
    assert scaled(3) == ""


def test_changes_that_must_always_be_possible() -> None:
    broken = job(numNodes=0)
    labelled = copy.deepcopy(broken)
    labelled["metadata"]["labels"] = {"team": "music"}
    assert refusal(request(labelled, broken)) == ""
    assert refusal(request(job(numNodes=0, suspend=True), broken)) == ""
    going = job(numNodes=-1)
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert refusal(request(going, broken)) == ""


def test_requests_that_are_none_of_our_business() -> None:
    foreign = job(managedBy="kueue.x-k8s.io/multikueue", numNodes=0)
    assert refusal(request(foreign)) == ""
    assert refusal(request(job(managedBy=MANAGED_BY), job())) == ""
    assert refusal(request(foreign, job())) == "spec.managedBy cannot be changed after creation."
    assert refusal(request(job(numNodes=0)), namespaces=("other",)) == ""
    assert refusal(request(job(numNodes=0)), namespaces=("other", "music")) != ""
    assert refusal(request(job(numNodes=0), sub="status")) == ""
    assert refusal(request(job(numNodes=0)) | {"operation": "DELETE"}) == ""
    pods = {"group": "", "version": "v1", "resource": "pods"}
    assert refusal(request(job(numNodes=0)) | {"resource": pods}) == ""


def test_the_answer_names_the_request() -> None:
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request(job())}
    asked = read_review(json.dumps(review).encode())
    assert answer(asked, "")["response"] == {"uid": "r-1", "allowed": True}
    refused = answer(asked, "No.")
    assert (refused["apiVersion"], refused["kind"]) == (review["apiVersion"], review["kind"])
    assert refused["response"]["allowed"] is False
    assert refused["response"]["status"]["message"] == "No."


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"kind": "AdmissionReview"}',
        b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1", "request": {"uid": "x"}}',
        b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {"uid": 7}}',
        b"[" * 200_000,
        b'{"kind": ' + b"1" * 10_000 + b"}",
    ],
)
def test_malformed_reviews(raw: bytes) -> None:
    with pytest.raises(MalformedReviewError):
        read_review(raw)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda child: (
        st.lists(child, max_size=3)
        | st.dictionaries(
            st.sampled_from([*SPEC, "spec", "metadata", "name", "status", "replicas", "elastic", "runPolicy"])
            | st.text(max_size=5),
            child,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(obj=ANYTHING, old=ANYTHING, sub=ANYTHING, name=ANYTHING, known=ANYTHING)
def test_any_request_is_answered(obj: Any, old: Any, sub: Any, name: Any, known: Any) -> None:
    asked = request(obj, old) | {"subResource": sub, "name": name}
    seen = known if isinstance(known, dict) else None
    for request_ in (asked, request(job(), old) | {"oldObject": job(status=old)}):
        try:
            assert isinstance(refusal(request_, seen, seen), str)
        except MalformedReviewError:
            assert not isinstance(obj, dict)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_spoilt_review_is_answered(data: st.DataObject) -> None:
    world = running()
    asked = request(make_job(numNodes=3), world.job)
    path = data.draw(st.sampled_from([path for path in paths(asked) if path != ("object",)]))
    config_map = data.draw(st.just(world.config_map) | st.dictionaries(st.text(max_size=4), JSON, max_size=2))
    assert isinstance(refusal(spoil(asked, path, data.draw(JSON)), world.job, config_map), str)
