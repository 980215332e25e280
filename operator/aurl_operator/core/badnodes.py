"""Avoids nodes on which a job fails repeatedly. Failures are counted per job, and avoidance is temporary.

The operator cannot see the cluster's nodes: if the pods do not fit elsewhere, avoided nodes are used again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from aurl_operator.api.spec import NodeAvoidance
from aurl_operator.api.status import Failure, NodeFailure
from aurl_operator.core.podview import PodView

#: Seconds without a node after which the pods of a job may use avoided nodes again.
REUSE_SECONDS: Final = 30.0
#: Deliberate actions of people and controllers say nothing about the node.
_BLAMELESS: Final = frozenset({"PodDeleted", "Interrupted"})
_BLAMED: Final = frozenset({"Hardware", "Infrastructure", "Hang", "Unknown"})
_REMEMBERED: Final = 20


def record(
    known: Sequence[NodeFailure], failure: Failure, policy: NodeAvoidance, now: datetime
) -> list[NodeFailure]:
    """Add a failure to the counts by node, and drop those that have expired."""
    kept = [entry for entry in known if not _expired(entry, policy, now)]
    node = failure.node
    if not node or not _blames(failure):
        return kept
    before = next((entry for entry in kept if entry.node == node), NodeFailure(node=node))
    update = {"failures": before.failures + 1, "reason": failure.reason, "last_time": now}
    others = [entry for entry in kept if entry.node != node]
    return [*others[1 - _REMEMBERED :], before.model_copy(update=update)]


def avoided(known: Sequence[NodeFailure], policy: NodeAvoidance, now: datetime) -> tuple[str, ...]:
    """Return the sorted names of the nodes that new pods must not use; one hardware failure is enough."""
    if policy.after_failures == 0:
        return ()
    bad = [
        entry
        for entry in known
        if (entry.failures >= policy.after_failures or entry.reason == "Hardware")
        and not entry.reused
        and not _expired(entry, policy, now)
    ]
    bad.sort(key=lambda entry: (entry.last_time or now, entry.node))
    return tuple(sorted(entry.node for entry in bad[-policy.max_nodes :]))


def reuse(known: Sequence[NodeFailure], nodes: Iterable[str]) -> list[NodeFailure]:
    """Mark nodes as used again despite their failures."""
    chosen = frozenset(nodes)
    return [e.model_copy(update={"reused": True}) if e.node in chosen else e for e in known]


def seconds_until_reuse(
    pods: Iterable[PodView], nodes: Sequence[str], created: datetime | None, now: datetime
) -> float | None:
    """Return the seconds until avoided nodes are used again, or None if no pod waits for a node."""
    if not nodes:
        return None
    waiting = [
        pod.scheduled_since or pod.created or created or now
        for pod in pods
        if pod.unschedulable and not pod.terminating and not pod.node
    ]
    if not waiting:
        return None
    return max(0.0, REUSE_SECONDS - (now - min(waiting)).total_seconds())


def _blames(failure: Failure) -> bool:
    """True if a failure counts against the node of the pod that failed first."""
    if failure.failure_class not in _BLAMED or failure.reason in _BLAMELESS:
        return False
    if failure.reason == "Hang":
        return failure.rank is not None  # otherwise it is unknown which rank kept the others waiting
    # A rank that only lost its connection points to a peer on another node.
    return failure.reason != "Infrastructure" or failure.signal is not None


def _expired(entry: NodeFailure, policy: NodeAvoidance, now: datetime) -> bool:
    return entry.last_time is None or (now - entry.last_time).total_seconds() >= policy.seconds
