"""admission.answer() as a table: what the webhook refuses, what it lets pass, what it makes of nonsense."""

from __future__ import annotations

import copy
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from aurl_operator.admission import MalformedReviewError, answer
from unit.operator.builders import OPTIONS, Object, World, make_job, running
from unit.operator.test_hostile_objects import JSON, paths, spoil

SUSPEND_FIRST = "cannot change while it runs: suspend it first."


def ask(operation: str, new: Any, old: Any = None, config_map: Object | None = None) -> tuple[bool, str]:
    """Whether a request is allowed, and why not."""
    request = {"uid": "q", "operation": operation, "namespace": "music", "object": new, "oldObject": old}
    review = answer({"request": request}, lambda _: config_map, OPTIONS.check_config)
    response = review["response"]
    assert (review["kind"], response["uid"]) == ("AdmissionReview", "q")
    return response["allowed"], response.get("status", {}).get("message", "")


def edited(world: World, **spec: Any) -> tuple[bool, str]:
    """Whether the job of a world may be edited so."""
    new = copy.deepcopy(world.job)
    new["spec"].update(spec)
    return ask("UPDATE", new, world.job, world.config_map)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("bach", {"numNodes": 0}, ["spec.numNodes"]),
        ("b" * 60, {}, ["metadata.name", "use ", "characters at most"]),
        ("Bach", {}, ["metadata.name", "lower-case"]),
        ("bach", {"elastic": {"minNodes": 3, "maxNodes": 2}}, ["spec.elastic.minNodes", "maxNodes"]),
        ("bach", {"elastic": {"minNodes": 3, "maxNodes": 4}}, ["spec.numNodes", "3 to 4"]),
        ("bach", {"gangScheduling": {"provider": "Kueue"}}, ["spec.gangScheduling.queue"]),
        ("bach", {"storage": {}}, ["spec.storage", "exactly one"]),
        ("bach", {"storage": {"claimName": "other/claim"}}, ["spec.storage.claimName"]),
        ("bach", {"podTemplate": {"env": [{"name": "AURL_X", "value": ""}]}}, ["AURL_X"]),
    ],
)
def test_creation_is_refused_in_one_sentence_with_the_path(name: str, change: Any, words: list[str]) -> None:
    allowed, message = ask("CREATE", make_job(name, **change))
    assert not allowed
    assert all(word in message for word in words), message
    assert message.startswith("The specification is invalid: ")
    assert message.endswith(".")
    assert "\n" not in message


def test_sound_jobs_pass() -> None:
    assert ask("CREATE", make_job()) == (True, "")
    generated = make_job()
    generated["metadata"] = {"generateName": "bach-", "namespace": "music"}
    assert ask("CREATE", generated) == (True, "")
    generated["metadata"]["generateName"] = "b" * 56
    assert "characters at most" in ask("CREATE", generated)[1]


def test_a_job_of_another_controller_is_none_of_ours() -> None:
    foreign = make_job(managedBy="kueue.x-k8s.io/multikueue", numNodes=0)
    assert ask("CREATE", foreign) == (True, "")
    assert ask("UPDATE", make_job(), foreign) == (
        False,
        "spec.managedBy cannot be changed after creation.",
    )


def test_what_may_change_while_a_job_runs_and_what_not() -> None:
    world = running()
    assert edited(world, runPolicy={"backoffLimit": 9}) == (True, "")
    assert edited(world, suspend=True) == (True, "")
    for change in ({"training": {"steps": 9}}, {"numNodes": 3}, {"image": "other:1"}):
        allowed, message = edited(world, **change)
        assert not allowed
        assert f"spec.{next(iter(change))}" in message
        assert message.endswith(SUSPEND_FIRST)
    # What suspends the job may change it as well.
    assert edited(world, suspend=True, numNodes=3) == (True, "")
    allowed, message = edited(world, numNodes=0)
    assert not allowed
    assert "spec.numNodes" in message


def test_a_refused_edit_can_be_taken_back() -> None:
    """As when the webhook was switched on after it."""
    world = running()
    world.job["spec"]["numNodes"] = 5
    assert edited(world, numNodes=2) == (True, "")


def test_what_leaves_the_specification_alone_passes() -> None:
    """A job that was invalid before there was a webhook can be labelled, and deleted."""
    bad = make_job(numNodes=0)
    labelled = copy.deepcopy(bad)
    labelled["metadata"]["labels"] = {"team": "music"}
    assert ask("UPDATE", labelled, bad) == (True, "")
    leaving = make_job(numNodes=-1)
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert ask("UPDATE", leaving, bad) == (True, "")
    assert ask("DELETE", None, bad) == (True, "")


@pytest.mark.parametrize(
    "review", [None, [], "x", {}, {"request": 1}, {"request": {}}, {"request": {"uid": 7}}]
)
def test_what_is_no_review_is_an_error_of_the_caller(review: Any) -> None:
    with pytest.raises(MalformedReviewError):
        answer(review, lambda _: None, OPTIONS.check_config)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_nonsense_is_answered(data: st.DataObject) -> None:
    world = running()
    request: Object = {
        "uid": "q",
        "operation": data.draw(st.sampled_from(["CREATE", "UPDATE", "DELETE", "CONNECT"])),
        "namespace": "music",
        "object": make_job(numNodes=3),
        "oldObject": world.job,
    }
    path = data.draw(st.sampled_from([path for path in paths(request) if path != ("uid",)]))
    spoilt = spoil(request, path, data.draw(JSON))
    config_map = data.draw(st.just(world.config_map) | st.dictionaries(st.text(max_size=4), JSON, max_size=2))
    response = answer({"request": spoilt}, lambda _: config_map, OPTIONS.check_config)["response"]
    assert response["allowed"] is True or response["status"]["message"]
