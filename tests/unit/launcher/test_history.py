"""The history of a job: bounded, evenly spaced, without steps that were taken back."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurl_trainer.cli.page import last_progress
from aurl_trainer.launcher.history import MAX_ATTEMPTS, MAX_EVENTS, Curve, History, column_names, restored
from aurl_trainer.launcher.server import json_body
from aurl_trainer.metrics import StepMetrics, ValidationMetrics
from aurl_trainer.monitor.snapshot import JobEvent, JobSnapshot, RankSnapshot
from metric_records import step_metrics

TRAIN = column_names(StepMetrics)


def reported(step: int, *, pid: int = 1, start: int = 0, total: int = 1000, **values: Any) -> RankSnapshot:
    """The snapshot of rank 0 after a log interval that ended with `step`."""
    metrics = step_metrics(step=step, loss=1.0, **values)
    job = JobSnapshot(total_steps=total, start_step=start, logged_step=step, metrics=metrics)
    return RankSnapshot(0, 0, 1, pid, step=step, updated_at=100.0 + step, job=job)


def evaluated(step: int) -> RankSnapshot:
    """The same with an evaluation."""
    rank = reported(step)
    assert rank.job is not None
    rank.job.validation_step, rank.job.validation = step, ValidationMetrics(2.0)
    return rank


def steps(curve: Curve) -> list[float | None]:
    return [row[0] for row in curve.rows]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=300), st.integers(4, 40))
def test_a_curve_is_bounded_and_keeps_its_ends(gaps: list[int], limit: int) -> None:
    curve = Curve(("step", "value"), limit)
    at = 0
    for gap in gaps:
        at += gap
        curve.add([at, 1.0])
        kept = [step for step in steps(curve) if step is not None]
        assert len(kept) <= limit
        assert kept[0] == gaps[0] and kept[-1] == at
        assert all(before < after for before, after in pairwise(kept))


def test_a_long_curve_is_evenly_spaced() -> None:
    curve = Curve(("step", "value"), 100)
    for step in range(100_000):
        curve.add([step, 0.5])
    gaps = [b - a for a, b in pairwise(step for step in steps(curve) if step is not None)][:-1]
    assert len(gaps) >= 45
    assert max(gaps) <= 2 * min(gaps)


def test_a_restart_and_a_roll_back_drop_later_rows() -> None:
    history = History()
    for step in (10, 20, 30, 40):
        history.take(evaluated(step))
    history.begin(1, 1000.0)
    history.take(reported(25, pid=2, start=20))
    assert steps(history.train) == [10, 20, 25]
    assert steps(history.validation) == [10, 20]
    assert history.attempts[-1].start_step == 20

    back = reported(25, pid=2, start=20)
    back.step = 10
    assert back.job is not None
    back.job.logged_step = None  # the values belong to discarded steps
    history.take(back)
    assert steps(history.train) == [10]


def test_values_that_are_not_finite_are_left_out() -> None:
    history = History()
    history.take(reported(1, gradient_norm=math.inf))
    row = dict(zip(TRAIN, history.train.rows[0], strict=True))
    assert row["gradientNorm"] is None and row["loss"] == 1.0 and row["step"] == 1
    json_body(history.document())  # which refuses NaN


def test_an_event_is_kept_once_and_only_the_newest_are() -> None:
    history = History()
    for number in range(MAX_EVENTS + 20):
        rank = reported(number + 1)
        rank.events = [
            JobEvent(float(at), "LossSpike", at, f"the {at}th")
            for at in range(max(0, number - 5), number + 1)
        ]
        history.take(rank)
    assert [event.step for event in history.events] == list(range(20, MAX_EVENTS + 20))


def test_attempts_are_bounded_and_know_their_end() -> None:
    history = History()
    for number in range(MAX_ATTEMPTS + 5):
        history.begin(number, float(number))
    history.end("Failed", "OutOfMemory", "It was too large.", 99.0)
    assert [attempt.number for attempt in history.attempts] == list(range(5, MAX_ATTEMPTS + 5))
    assert [attempt.state for attempt in history.attempts[-2:]] == [None, "Failed"]


def test_the_time_per_step_is_that_of_this_attempt() -> None:
    history = History()
    history.take(reported(10))
    history.take(reported(500, pid=2, start=490))
    assert history.seconds_per_step() is None
    for step in (502, 510):
        history.take(reported(step, pid=2, start=490))
    assert history.seconds_per_step() == pytest.approx(1.0)


def test_a_stored_history_is_restored() -> None:
    history = History()
    history.begin(3, 10.0)
    for step in (5, 10):
        history.take(evaluated(step))
    history.events.append(JobEvent(11.0, "LossSpike", None, "a spike"))
    history.end("Succeeded", None, "The training is complete.", 20.0, {"state": "Finished", "step": 10})
    again = restored(json.loads(json_body(history.document())))
    assert {**again.document(), "secondsPerStep": None} == {**history.document(), "secondsPerStep": None}


def test_a_curve_outlives_a_change_of_its_columns() -> None:
    stored = {"columns": ["step", "time", "gone", "loss"], "rows": [[5, 105.0, 9.0, 2.5]]}
    history = restored({"format": 1, "train": stored})
    row = dict(zip(TRAIN, history.train.rows[0], strict=True))
    assert row == dict.fromkeys(TRAIN) | {"step": 5, "time": 105.0, "loss": 2.5}


def test_the_name_of_an_attempt_that_vanished_is_known() -> None:
    history = History()
    history.begin(3, 10.0)
    last = last_progress(history, Path("/volume/music/chorales"))
    known = [last[key] for key in ("namespace", "job", "attempt", "state", "startedAt")]
    assert known == ["music", "chorales", 3, "Lost", "1970-01-01T00:00:10.000Z"]


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
entries = st.lists(
    st.dictionaries(st.sampled_from(["time", "kind", "step", "message", "number", "started_at"]), json_values)
)


@given(
    st.fixed_dictionaries(
        {"format": st.just(1), "events": entries | json_values, "attempts": entries | json_values},
        optional={
            "train": json_values
            | st.fixed_dictionaries(
                {"columns": st.just(list(TRAIN)), "rows": st.lists(st.lists(json_values, max_size=6))}
            )
        },
    )
)
def test_a_damaged_store_loses_the_damaged_parts_only(document: dict[str, Any]) -> None:
    history = restored(document)
    history.begin(1, 2.0)
    rank = reported(5)
    rank.events = [JobEvent(1e12, "LossSpike", 5, "a spike")]
    history.take(rank)
    assert history.train.last_step >= 5 or history.train.rows == []
    json_body(history.document())
