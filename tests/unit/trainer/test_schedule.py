"""Schedules over steps: learning rate, weight decay, dropout."""

from __future__ import annotations

import pytest

from aurl_trainer.optim.config import RampConfig, ScheduleConfig
from aurl_trainer.optim.schedule import DROPOUT_LEVELS, dropout_at, learning_rate, ramp


@pytest.mark.parametrize(
    ("kind", "step", "expected"),
    [
        ("cosine", 1, 0.1),
        ("cosine", 10, 1.0),
        ("cosine", 60, 0.6),
        ("cosine", 110, 0.2),
        ("linear", 5, 0.5),
        ("linear", 35, 0.8),
        ("linear", 110, 0.2),
        ("polynomial", 60, 0.4),
        ("polynomial", 110, 0.2),
        ("inverse-sqrt", 5, 0.5),
        ("inverse-sqrt", 40, 0.5),
        ("inverse-sqrt", 1000, 0.2),
        ("constant", 5, 0.5),
        ("constant", 110, 1.0),
    ],
)
def test_rate(kind: str, step: int, expected: float) -> None:
    final = {} if kind == "constant" else {"finalRatio": 0.2}
    config = ScheduleConfig.model_validate({"kind": kind, "warmupSteps": 10} | final)
    assert learning_rate(config, 1.0, step, 110) == pytest.approx(expected)


def test_warm_up_longer_than_training_is_cut() -> None:
    assert learning_rate(ScheduleConfig(), 1.0, 5, 5) == 1.0


def test_no_warm_up_begins_near_the_peak() -> None:
    assert learning_rate(ScheduleConfig(warmup_steps=0), 1.0, 1, 1000) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("linear", [(1, 0.1), (26, 0.2), (51, 0.3), (101, 0.5)]),
        ("cosine", [(1, 0.1), (26, 0.1 + 0.4 * 0.146447), (51, 0.3), (101, 0.5)]),
    ],
)
def test_ramp(kind: str, values: list[tuple[int, float]]) -> None:
    config = RampConfig.model_validate({"kind": kind, "final": 0.5})
    assert [ramp(config, 0.1, step, 101) for step, _ in values] == pytest.approx([v for _, v in values])
    assert ramp(config, 0.1, 1, 1) == 0.1


def test_constant_stays() -> None:
    assert {ramp(RampConfig(), 0.1, step, 9) for step in range(1, 10)} == {0.1}
    assert {dropout_at(RampConfig(), 0.1, step, 9) for step in range(1, 10)} == {0.1}


@pytest.mark.parametrize(("first", "final"), [(0.1, 0.3), (0.3, 0.0)])
def test_dropout_goes_in_stairs_from_end_to_end(first: float, final: float) -> None:
    config = RampConfig(kind="linear", final=final)
    values = [dropout_at(config, first, step, 1000) for step in range(1, 1001)]
    assert (values[0], values[-1]) == (first, final)
    assert len(set(values)) == DROPOUT_LEVELS + 1
    assert values == sorted(values, reverse=final < first)
    assert dropout_at(RampConfig(kind="linear", final=0.2), 0.2, 500, 1000) == 0.2
