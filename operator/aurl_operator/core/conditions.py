"""Derives the conditions of a job from its state and its blocker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, get_args

from aurl_operator.api.status import Condition, ConditionStatus, ConditionType, State

TYPES: Final[tuple[ConditionType, ...]] = get_args(ConditionType)
_UNDERWAY: Final = frozenset({"Pending", "Preparing", "Starting", "Restarting"})


@dataclass(frozen=True)
class Blocker:
    """What keeps a job from making progress until it is fixed."""

    reason: str
    message: str


@dataclass(frozen=True)
class Aspect:
    """Status, reason and message of one condition."""

    status: ConditionStatus
    reason: str
    message: str = ""


def derive(
    state: State, reason: str, message: str, dataset: Aspect, blocker: Blocker | None
) -> dict[ConditionType, Aspect]:
    """Return all conditions of a job. `reason` and `message` explain the state."""

    def flag(on: bool) -> Aspect:
        return Aspect("True" if on else "False", reason, message)

    succeeded, failed = state == "Succeeded", state == "Failed"
    summary = flag(succeeded) if succeeded or failed else Aspect("Unknown", reason, message)
    failure = flag(failed) if succeeded or failed else Aspect("Unknown", reason, message)
    return {
        "Succeeded": summary,
        "Failed": failure,
        "Running": flag(state == "Running"),
        "DatasetReady": dataset,
        "Suspended": flag(state == "Suspended"),
        "Reconciling": flag(state in _UNDERWAY),
        "Stalled": Aspect("True", blocker.reason, blocker.message)
        if blocker
        else Aspect("False", "NotBlocked", "Nothing blocks the job."),
    }


def merge(
    old: Sequence[Condition], aspects: dict[ConditionType, Aspect], generation: int, now: datetime
) -> list[Condition]:
    """Return the conditions to write; the transition time is kept where the status has not changed."""
    before = {condition.type: condition for condition in old}
    merged = []
    for name in TYPES:
        aspect, known = aspects[name], before.get(name)
        unchanged = known is not None and known.status == aspect.status
        since = known.last_transition_time if known and unchanged and known.last_transition_time else now
        merged.append(
            Condition(
                type=name,
                status=aspect.status,
                reason=aspect.reason,
                message=aspect.message,
                observed_generation=generation,
                last_transition_time=since,
            )
        )
    return merged


def find(conditions: Sequence[Condition], name: ConditionType) -> Condition | None:
    """Return the condition of a type, or None."""
    return next((condition for condition in conditions if condition.type == name), None)


def is_true(conditions: Sequence[Condition], name: ConditionType) -> bool:
    """True if a condition exists and is True."""
    found = find(conditions, name)
    return found is not None and found.status == "True"
