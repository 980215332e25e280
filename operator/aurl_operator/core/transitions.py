"""Derives the events to record from the status before and after a plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from aurl_operator.api.status import JobStatus, State
from aurl_operator.core.actions import Event
from aurl_operator.core.conditions import find, is_true

_REPORTED: Final[frozenset[State]] = frozenset({"Preparing", "Starting", "Running", "Suspended", "Succeeded"})


def transitions(old: JobStatus, new: JobStatus) -> tuple[Event, ...]:
    """Return the events for the changes between two statuses; each transition gives one."""
    return (*_state_events(old, new), *_node_events(old, new), *_blocker_events(old, new))


def _state_events(old: JobStatus, new: JobStatus) -> Iterator[Event]:
    if is_true(new.conditions, "DatasetReady") and not is_true(old.conditions, "DatasetReady"):
        yield Event("Normal", "DatasetReady", _message(new, "DatasetReady"))
    if new.restarts.total > old.restarts.total:
        yield Event("Warning", "Restarting", _message(new, "Reconciling"))
    if new.state == "Failed" and old.state != "Failed":
        failed = find(new.conditions, "Failed")
        yield Event("Warning", failed.reason if failed else "Failed", _message(new, "Failed"))
    elif new.state != old.state and new.state in _REPORTED:
        yield Event("Normal", new.state, _message(new, "Running"))
    if new.replicas and old.replicas and new.replicas != old.replicas:
        message = f"The job continues on {new.replicas} instead of {old.replicas} worker pod(s)."
        yield Event("Normal", "Resized", message)


def _node_events(old: JobStatus, new: JobStatus) -> Iterator[Event]:
    slow_before = {straggler.rank for straggler in old.stragglers}
    for straggler in new.stragglers:
        if straggler.rank not in slow_before:
            where = f" on node {straggler.node}" if straggler.node else ""
            message = (
                f"Rank {straggler.rank}{where} is slower than its peers, which wait for it in every step."
            )
            yield Event("Warning", "Straggler", message)
    reused, reused_before = (
        {entry.node for entry in status.node_failures if entry.reused} for status in (new, old)
    )
    for node in sorted(reused - reused_before):
        message = f"Node {node} failed the job before but is used again: the pods do not fit elsewhere."
        yield Event("Warning", "AvoidedNodeReused", message)
    avoided, avoided_before = (
        set(status.launch.avoided_nodes) if status.launch else set() for status in (new, old)
    )
    if avoided - avoided_before:
        names = ", ".join(sorted(avoided))
        yield Event("Warning", "NodesAvoided", f"Avoiding nodes on which the job failed repeatedly: {names}.")


def _blocker_events(old: JobStatus, new: JobStatus) -> Iterator[Event]:
    stalled, before = find(new.conditions, "Stalled"), find(old.conditions, "Stalled")
    known = (before.status, before.reason) if before else None
    if stalled and stalled.status == "True" and known != ("True", stalled.reason):
        yield Event("Warning", stalled.reason, stalled.message)


def _message(status: JobStatus, name: str) -> str:
    return next((c.message for c in status.conditions if c.type == name), "")
