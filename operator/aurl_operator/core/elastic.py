"""Elastic jobs: fewer nodes when lost capacity does not return, more when there is room again.

The number of nodes never changes within an attempt. Shrinking and growing start a new attempt, whose ranks
resume from the last checkpoint with the same global batch. Placeholder pods find out whether a larger gang
would fit without disturbing the training: each requests what a worker needs, and once scheduled makes way for
a worker of the next attempt.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from aurl_operator.api.spec import JobSpec
from aurl_operator.api.status import JobStatus
from aurl_operator.core.gang import Gang
from aurl_operator.core.placement import Move

#: Seconds that a placeholder pod with a node waits for others without one.
SETTLE_SECONDS: Final = 10.0


def target(spec: JobSpec, status: JobStatus) -> int:
    """Return the number of nodes of the next attempt."""
    if spec.elastic is None or status.elastic_nodes is None:
        return spec.num_nodes
    return min(max(status.elastic_nodes, spec.elastic.min_nodes), spec.num_nodes)


def resize(spec: JobSpec, status: JobStatus, gang: Gang, now: datetime) -> tuple[Move | None, float | None]:
    """Return a move to another number of nodes, or the seconds until one may be due. `gang`: the workers."""
    elastic = spec.elastic
    if elastic is None:
        return None, None
    if gang.size > spec.num_nodes:
        return Move(
            "ScaledDown", f"spec.numNodes asks for {_nodes(spec.num_nodes)}.", {"elastic_nodes": None}
        ), None
    grown, wake = _grow(spec, gang, now)
    if grown is not None or wake is not None:
        return grown, wake
    launch = status.launch
    if (
        not gang.partly_placed
        or gang.placed < elastic.min_nodes
        or launch is None
        or launch.start_time is None
    ):
        return None, None
    left = elastic.shrink_after_seconds - (now - launch.start_time).total_seconds()
    if left > 0:
        return None, left
    message = (
        f"Only {gang.placed} of {gang.size} pods found room within {elastic.shrink_after_seconds} s; the job "
        f"continues on {_nodes(gang.placed)}."
    )
    return Move("ScaledDown", message, {"elastic_nodes": gang.placed}), None


def _grow(spec: JobSpec, gang: Gang, now: datetime) -> tuple[Move | None, float | None]:
    placeholders = [pod for pod in gang.placeholders if pod.index < spec.num_nodes and not pod.terminating]
    placed = [pod for pod in placeholders if pod.node]
    if not placed or not gang.up:
        return None, None
    if len(placed) < len(placeholders):
        since = min(pod.scheduled_since or now for pod in placed)
        left = SETTLE_SECONDS - (now - since).total_seconds()
        if 0 < left <= SETTLE_SECONDS:
            return None, left
    size = min(gang.size + len(placed), spec.num_nodes)
    message = f"There is room for {_nodes(size)}; the job resumes on them from its last checkpoint."
    return Move("ScaledUp", message, {"elastic_nodes": size if size < spec.num_nodes else None}), None


def placeholders(spec: JobSpec, status: JobStatus, gang: Gang, now: datetime) -> tuple[range, float | None]:
    """Return the indexes of the placeholder pods that should exist, and the seconds until that may change.

    A job that was shrunk waits before it asks for more nodes, to limit the number of restarts; one whose
    numNodes was raised asks immediately.
    """
    launch = status.launch
    if spec.elastic is None or gang.role != "worker" or not gang.up or gang.size >= spec.num_nodes:
        return range(0), None
    since = launch.running_time if launch else None
    if since is None:
        return range(0), None
    if status.elastic_nodes is not None:
        left = spec.elastic.grow_interval_seconds - (now - since).total_seconds()
        if left > 0:
            return range(0), left
    return range(gang.size, spec.num_nodes), None


def _nodes(count: int) -> str:
    return f"{count} node" if count == 1 else f"{count} nodes"
