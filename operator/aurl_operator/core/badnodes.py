"""Nodes that fail a job again and again: counted per job, and avoided for a while.

The operator cannot see the cluster's nodes: where pods find no place elsewhere, an avoided one is used again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from aurl_operator.api.spec import NodeAvoidance
from aurl_operator.api.status import Failure, NodeFailure
from aurl_operator.core.podview import PodView

#: Seconds for which pods may find no node before those that are avoided are used again.
REUSE_SECONDS: Final = 30.0
#: What people and controllers do on purpose says nothing about the node it happened on.
_BLAMELESS: Final = frozenset({"PodDeleted", "Interrupted"})
_BLAMED: Final = frozenset({"Infrastructure", "Hang", "Unknown"})
_REMEMBERED: Final = 20


def note(
    known: Sequence[NodeFailure], failure: Failure, policy: NodeAvoidance, now: datetime
) -> list[NodeFailure]:
    """The failures of nodes with one more, without those that are too old to count."""
    kept = [entry for entry in known if not _expired(entry, policy, now)]
    node = failure.node
    if not node or not _blames(failure):
        return kept
    before = next((entry for entry in kept if entry.node == node), NodeFailure(node=node))
    update = {"failures": before.failures + 1, "reason": failure.reason, "last_time": now}
    others = [entry for entry in kept if entry.node != node]
    return [*others[1 - _REMEMBERED :], before.model_copy(update=update)]


def avoided(known: Sequence[NodeFailure], policy: NodeAvoidance, now: datetime) -> tuple[str, ...]:
    """Names of the nodes that the next pods must not use; sorted."""
    if policy.after_failures == 0:
        return ()
    bad = [
        entry
        for entry in known
        if entry.failures >= policy.after_failures and not entry.reused and not _expired(entry, policy, now)
    ]
    bad.sort(key=lambda entry: (entry.last_time or now, entry.node))
    return tuple(sorted(entry.node for entry in bad[-policy.max_nodes :]))


def reuse(known: Sequence[NodeFailure], nodes: Iterable[str]) -> list[NodeFailure]:
    """The failures of nodes, some of which are used in spite of theirs."""
    chosen = frozenset(nodes)
    return [e.model_copy(update={"reused": True}) if e.node in chosen else e for e in known]


def seconds_until_reuse(
    pods: Iterable[PodView], nodes: Sequence[str], created: datetime | None, now: datetime
) -> float | None:
    """Seconds until avoided nodes must be used again, 0 for now; None where no pod waits for a node."""
    if not nodes:
        return None
    waiting = [
        pod.scheduled_since or pod.created or created or now
        for pod in pods
        if pod.unschedulable and not pod.leaving and not pod.node
    ]
    if not waiting:
        return None
    return max(0.0, REUSE_SECONDS - (now - min(waiting)).total_seconds())


def _blames(failure: Failure) -> bool:
    """Whether a failure speaks against the node of the pod that failed first."""
    if failure.failure_class not in _BLAMED or failure.reason in _BLAMELESS:
        return False
    if failure.reason == "Hang":
        return failure.rank is not None  # else it is not known who kept the others waiting
    # A rank that only lost its connection tells of a peer on another node.
    return failure.reason != "Infrastructure" or failure.signal is not None


def _expired(entry: NodeFailure, policy: NodeAvoidance, now: datetime) -> bool:
    return entry.last_time is None or (now - entry.last_time).total_seconds() >= policy.seconds
