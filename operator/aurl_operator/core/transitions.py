"""Derives the events to record from the status before and after a plan."""

from __future__ import annotations

from typing import Final

from aurl_operator.api.status import JobStatus, State
from aurl_operator.core.actions import Event
from aurl_operator.core.conditions import find, is_true

_REPORTED: Final[frozenset[State]] = frozenset({"Preparing", "Starting", "Running", "Suspended", "Succeeded"})


def transitions(old: JobStatus, new: JobStatus) -> tuple[Event, ...]:
    """Return the events for the changes between two statuses; each transition gives one."""
    events: list[Event] = []
    if is_true(new.conditions, "DatasetReady") and not is_true(old.conditions, "DatasetReady"):
        events.append(Event("Normal", "DatasetReady", _message(new, "DatasetReady")))
    if new.restarts.total > old.restarts.total:
        events.append(Event("Warning", "Restarting", _message(new, "Reconciling")))
    if new.state != old.state:
        if new.state == "Failed":
            failed = find(new.conditions, "Failed")
            events.append(Event("Warning", failed.reason if failed else "Failed", _message(new, "Failed")))
        elif new.state in _REPORTED:
            events.append(Event("Normal", new.state, _message(new, "Running")))
    if new.replicas and old.replicas and new.replicas != old.replicas:
        message = f"The job continues on {new.replicas} instead of {old.replicas} worker pod(s)."
        events.append(Event("Normal", "Resized", message))
    slow_before = {straggler.rank for straggler in old.stragglers}
    for straggler in new.stragglers:
        if straggler.rank not in slow_before:
            where = f" on node {straggler.node}" if straggler.node else ""
            message = (
                f"Rank {straggler.rank}{where} is slower than its peers, which wait for it in every step."
            )
            events.append(Event("Warning", "Straggler", message))
    reused = {entry.node for entry in new.node_failures if entry.reused}
    for node in sorted(reused - {entry.node for entry in old.node_failures if entry.reused}):
        message = f"Node {node} failed the job before but is used again: the pods do not fit elsewhere."
        events.append(Event("Warning", "AvoidedNodeReused", message))
    chosen, known = (set(status.launch.avoided_nodes) if status.launch else set() for status in (new, old))
    if chosen - known:
        names = ", ".join(sorted(chosen))
        events.append(
            Event("Warning", "NodesAvoided", f"Avoiding nodes on which the job failed repeatedly: {names}.")
        )
    stalled, before = find(new.conditions, "Stalled"), find(old.conditions, "Stalled")
    if stalled and stalled.status == "True":
        was = (before.status, before.reason) if before else ("", "")
        if was != ("True", stalled.reason):
            events.append(Event("Warning", stalled.reason, stalled.message))
    return tuple(events)


def _message(status: JobStatus, name: str) -> str:
    return next((c.message for c in status.conditions if c.type == name), "")
