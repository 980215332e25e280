"""The store parses each version once, keeps the newest one, and survives malformed objects."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aurl_operator.core.actions import Kind
from aurl_operator.kube.store import Store
from unit.operator.builders import UID, Object, make_job, running
from unit.operator.test_hostile_objects import JSON, paths, spoil

WORLD = running()
OBJECTS: dict[Kind | str, Object | None] = {
    "Job": WORLD.job,
    "Pod": WORLD.pods["bach-0-0"],
    "Service": WORLD.service,
    "ConfigMap": WORLD.config_map,
    "PersistentVolumeClaim": WORLD.claim,
}
PLACES = [(kind, path) for kind, obj in OBJECTS.items() for path in paths(obj)]


def at(version: int, obj: Object, **status: Any) -> Object:
    """An object in some version."""
    made = copy.deepcopy(obj)
    made["metadata"]["resourceVersion"] = str(version)
    return made | ({"status": status} if status else {})


def test_each_version_is_parsed_once() -> None:
    store = Store()
    key = store.put_job(at(1, WORLD.job))
    assert key is not None
    store.put_child("Pod", at(1, WORLD.pods["bach-0-0"]))
    job, pods = store.job(key), store.children(UID).pods
    assert job is not None
    assert job.spec is job.spec
    assert job.status is job.status
    assert store.job(key) is job
    assert store.children(UID).pods[0] is pods[0]


@pytest.mark.parametrize(("version", "taken"), [(6, True), (5, False), (4, False)])
def test_only_a_newer_version_replaces_the_known_one(version: int, taken: bool) -> None:
    store = Store()
    key = store.put_job(at(5, make_job()))
    store.put_child("Pod", at(5, WORLD.pods["bach-0-0"], phase="Pending"))
    assert key is not None
    assert store.put_job(at(version, make_job(numNodes=7))) == (key if taken else None)
    job = store.job(key)
    assert job is not None and job.spec is not None
    assert (job.spec.num_nodes == 7) == taken
    assert store.put_child("Pod", at(version, WORLD.pods["bach-0-0"], phase="Running")) == (
        key if taken else None
    )
    assert (store.children(UID).pods[0].phase == "Running") == taken


def test_a_deleted_object_does_not_come_back() -> None:
    store, pod = Store(), at(5, WORLD.pods["bach-0-0"])
    key = store.put_job(at(5, make_job()))
    store.put_child("Pod", pod)
    assert store.drop_child(pod) == key
    assert store.put_child("Pod", at(9, pod)) is None
    assert store.children(UID).pods == ()
    assert store.drop_job(make_job()) == key
    assert store.put_job(at(9, make_job())) is None
    assert store.jobs() == []


def test_a_job_of_the_same_name_replaces_its_predecessor() -> None:
    store, successor = Store(), at(1, make_job())
    successor["metadata"]["uid"] = "another"
    key = store.put_job(at(5, make_job()))
    assert store.put_job(successor) == key
    assert [job.ref.uid for job in store.jobs()] == ["another"]
    assert store.put_job(at(6, make_job())) is None


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(PLACES), JSON)
def test_malformed_objects_do_not_break_the_store(place: tuple[Any, tuple[Any, ...]], value: Any) -> None:
    kind, path = place
    obj, store = spoil(OBJECTS[kind], path, value), Store()
    if kind == "Job":
        key = store.put_job(obj)
        job = store.job(key) if key else None
        assert job is None or (job.spec is None) == bool(job.problems)
        store.drop_job(obj)
    else:
        store.put_child(kind, obj)
        store.children(UID)
        store.drop_child(obj)
