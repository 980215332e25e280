"""Findings of the detectors in series of losses, norms and speeds, and none in healthy ones."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest

from aurl_trainer.config import TrainingConfig
from aurl_trainer.loop.supervisor import stability_monitor
from aurl_trainer.stability.anomaly import Action, Anomaly
from aurl_trainer.stability.config import StabilityConfig
from aurl_trainer.stability.detect_fit import Overfitting, Underfitting
from aurl_trainer.stability.detect_gradient import GradientVanishing, SkipStreak
from aurl_trainer.stability.detect_loss import LossDivergence, LossOscillation, LossPlateau, LossSpike
from aurl_trainer.stability.detect_speed import DataStarvation, ThroughputDegradation
from aurl_trainer.stability.detector import IntervalDetector
from aurl_trainer.stability.early_stopping import EarlyStopping, EarlyStoppingConfig
from aurl_trainer.stability.finding import EvaluationLosses, Finding
from aurl_trainer.stability.monitor import StabilityMonitor
from aurl_trainer.stability.plateau import PlateauSchedule
from metric_records import step_metrics

DEFAULT = StabilityConfig()
NAN = math.nan
METRICS = step_metrics()


def found(detector: IntervalDetector, losses: list[float]) -> list[tuple[int, Action]]:
    """Return the places in a series of losses at which the detector acts, and its actions."""
    answers = [
        detector.observe(replace(METRICS, step=10 * place, loss=loss)) for place, loss in enumerate(losses)
    ]
    return [(place, answer.action) for place, answer in enumerate(answers) if answer is not None]


def noisy(count: int, level: float = 2.0, noise: float = 0.05, seed: int = 0) -> list[float]:
    source = random.Random(seed)
    return [level * (1 + noise * source.uniform(-1, 1)) for _ in range(count)]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        pytest.param([*noisy(40), 4.0, 2.0, 2.0], [(40, Action.WARN)], id="one interval is a warning"),
        pytest.param([*noisy(40), 4.0, 4.0, 4.0], [(40, Action.WARN), (42, Action.ROLLBACK)], id="three act"),
        pytest.param(
            [*noisy(40), 4.0, NAN, 4.0, NAN, 4.0], [(40, Action.WARN), (44, Action.ROLLBACK)], id="nan"
        ),
        pytest.param(
            [*noisy(40), 4.0, 4.0, 2.0, 4.0], [(40, Action.WARN), (43, Action.WARN)], id="broken off"
        ),
        pytest.param([*noisy(9), *[9.0] * 5], [], id="no band before half a window"),
        pytest.param([6 * 0.97**place for place in range(100)], [], id="a falling loss"),
        pytest.param([2.0] * 30 + [2.1] * 5, [], id="a flat loss has a band of 6 % at least"),
    ],
)
def test_loss_above_its_band(losses: list[float], expected: list[tuple[int, Action]]) -> None:
    assert found(LossSpike(DEFAULT.loss_spike), losses) == expected


def test_another_sequence_length_has_a_band_of_its_own() -> None:
    detector = LossSpike(DEFAULT.loss_spike)
    assert found(detector, noisy(40)) == []
    assert detector.observe(replace(METRICS, loss=4.0, sequence_length=128)) is None
    assert detector.observe(replace(METRICS, loss=4.0, sequence_length=128)) is None


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        pytest.param([*[2.0] * 5, 4.1, 4.1, 4.1], [(7, Action.ROLLBACK)], id="half of the fall is lost"),
        pytest.param([*[2.0] * 5, 4.1, 4.1, 3.9, 4.1, 4.1], [], id="twice is not enough"),
        pytest.param([*[2.0] * 4, 1.0, 3.0, 3.5, 3.5, 3.5], [], id="one low interval is luck"),
        pytest.param([6.0, 6.9, 6.9, 6.9, 6.9], [], id="early noise"),
        pytest.param([6.0, 7.1, 7.1, 7.1], [(3, Action.ROLLBACK)], id="from the start"),
        pytest.param([2 + 0.02 * place for place in range(105)], [(104, Action.ROLLBACK)], id="a slow creep"),
        pytest.param([NAN] * 9, [], id="no evidence"),
    ],
)
def test_divergence(losses: list[float], expected: list[tuple[int, Action]]) -> None:
    assert found(LossDivergence(DEFAULT.loss_divergence), losses) == expected


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        pytest.param([1.0, 2.0] * 8, [(15, Action.WARN)], id="up and down"),
        pytest.param(noisy(200, noise=0.2), [], id="noise of a fifth"),
        pytest.param([8 * 0.7**place for place in range(40)], [], id="a steep fall"),
        pytest.param([1.0, 1.0, 2.0, 2.0] * 10, [], id="slow waves"),
    ],
)
def test_oscillation(losses: list[float], expected: list[tuple[int, Action]]) -> None:
    assert found(LossOscillation(DEFAULT.loss_oscillation), losses) == expected


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        pytest.param(
            [2.0] * 220, [(99, Action.WARN), (199, Action.WARN)], id="flat, reported once per window"
        ),
        pytest.param([2 * 0.9999**place for place in range(150)], [], id="falls by half a percent"),
        pytest.param([2.0] * 99, [], id="not yet"),
    ],
)
def test_plateau(losses: list[float], expected: list[tuple[int, Action]]) -> None:
    assert found(LossPlateau(DEFAULT.loss_plateau), losses) == expected


def test_skips_in_a_row_name_their_cause() -> None:
    detector = SkipStreak(3)
    assert detector.observe(replace(METRICS, step=9, skips=2)) is None
    finding = detector.observe(replace(METRICS, step=10, skips=3, skip_reason="spike"))
    assert finding is not None
    assert (finding.kind, finding.action) == (Anomaly.GRADIENT_EXPLOSION, Action.ROLLBACK)
    assert "The last 3 updates up to step 10" in finding.message
    assert "far too long (stability.maxConsecutiveSkips is 3)" in finding.message


def test_vanishing_gradients_are_told_once_per_streak() -> None:
    detector = GradientVanishing(DEFAULT.gradient_vanishing)
    norms = [1e-8] * 4 + [NAN] + [1e-8] * 7 + [1.0] + [1e-8] * 5
    reported = [detector.observe(replace(METRICS, gradient_norm=norm)) is not None for norm in norms]
    assert [place for place, one in enumerate(reported) if one] == [9, 17]


@pytest.mark.parametrize(("loss", "expected"), [(5.9, [50]), (5.0, [])])
def test_underfitting_is_checked_once_in_the_middle(loss: float, expected: list[int]) -> None:
    detector = Underfitting(DEFAULT.underfitting, total_steps=1000)
    assert [place for place, _ in found(detector, [loss] * 100)] == expected


def test_slow_intervals_in_a_row() -> None:
    detector = ThroughputDegradation(DEFAULT.throughput_degradation)
    speeds = [1000.0] * 20 + [400.0] * 4 + [1000.0] + [400.0] * 30
    reported = [detector.observe(replace(METRICS, tokens_per_second=speed)) is not None for speed in speeds]
    assert [place for place, one in enumerate(reported) if one] == [29]  # after that, 400 is usual


def test_starvation_is_reported_once_per_streak() -> None:
    detector = DataStarvation(DEFAULT.data_starvation)
    shares = [0.6, 0.6, 0.1, *[0.6] * 5]
    reported = [detector.observe(replace(METRICS, data_wait_share=share)) is not None for share in shares]
    assert [place for place, one in enumerate(reported) if one] == [5]


@pytest.mark.parametrize(
    ("losses", "training", "expected"),
    [
        ([3.0, 2.0, 2.1, 2.1, 2.1], [3.0, 2.0, 1.8, 1.7, 1.6], [4]),
        ([3.0, 2.0, 2.1, 2.1, 2.1], [3.0, 2.0, 2.1, 2.2, 2.3], []),  # the training loss rises as well
        ([3.0, 2.0, 2.03, 2.03, 2.03], [3.0, 2.0, 1.8, 1.7, 1.6], []),  # within 2 %
        ([3.0, 2.0, 2.1, 2.1, 1.9, 2.1], [3.0, 2.0, 1.8, 1.7, 1.6, 1.5], []),
    ],
)
def test_overfitting(losses: list[float], training: list[float], expected: list[int]) -> None:
    detector = Overfitting(DEFAULT.overfitting)
    pairs = enumerate(zip(losses, training, strict=True))
    assert [
        place for place, pair in pairs if detector.observe(EvaluationLosses(place, *pair)) is not None
    ] == expected


@pytest.mark.parametrize(
    ("patience", "min_delta", "losses", "end"),
    [
        (2, 0.0, [3.0, 2.0, 2.1, 2.2], 3),
        (2, 0.0, [3.0, 2.0, 2.1, 1.9, 2.0], None),
        (2, 0.2, [3.0, 2.0, 1.9, 1.85], 3),
        (2, 0.0, [NAN, 2.0, NAN, NAN], 3),
        (0, 0.0, [2.0] * 9, None),
    ],
)
def test_early_stopping(patience: int, min_delta: float, losses: list[float], end: int | None) -> None:
    detector = EarlyStopping(EarlyStoppingConfig(patience=patience, min_delta=min_delta))
    answers = [detector.observe(EvaluationLosses(place, loss, 1.0)) for place, loss in enumerate(losses)]
    assert next((place for place, answer in enumerate(answers) if answer is not None), None) == end


def test_plateau_schedule_counts_after_the_warm_up() -> None:
    detector = PlateauSchedule(patience=2, warmup_steps=2, factor=0.3, floor=0.1)
    answers = [detector.observe(EvaluationLosses(step, 2.0, 2.0)) for step in range(1, 9)]
    assert [step for step, answer in enumerate(answers, 1) if answer is not None] == [5, 7]
    assert answers[4] is not None
    assert (answers[4].factor, answers[4].floor) == (0.3, 0.1)


def watched(monitor: StabilityMonitor, losses: list[float], first: int = 1) -> list[Finding]:
    """Give a monitor log intervals, and an evaluation after every tenth; return its findings."""
    findings = []
    for place, loss in enumerate(losses, first):
        findings += monitor.interval(replace(METRICS, step=10 * place, loss=loss))
        if place % 10 == 0:
            findings += monitor.evaluation(EvaluationLosses(10 * place, loss + 0.1, loss))
    return findings


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("noise", [0.01, 0.05, 0.15])
def test_a_healthy_run_is_left_alone(noise: float, seed: int) -> None:
    """A loss that falls from 6 to 1.5 with noise, over 300 log intervals."""
    source = random.Random(seed)
    losses = [(1.5 + 4.5 * math.exp(-place / 40)) * (1 + noise * source.gauss(0, 1)) for place in range(300)]
    monitor = stability_monitor(TrainingConfig(steps=3000))
    assert {finding.action for finding in watched(monitor, losses)} <= {Action.WARN}
    assert monitor.last_healthy_step > 2900


def test_state_survives_a_checkpoint_in_any_place() -> None:
    config = TrainingConfig.model_validate({"steps": 1000, "earlyStopping": {"patience": 3}})
    losses = [*noisy(43), 4.0, 4.0, 4.0, *noisy(20), *[9.0] * 5]
    straight = stability_monitor(config)
    expected = watched(straight, losses)
    assert {finding.kind for finding in expected} >= {Anomaly.LOSS_SPIKE, Anomaly.LOSS_DIVERGENCE}
    for cut in range(len(losses)):
        before, after = stability_monitor(config), stability_monitor(config)
        findings = watched(before, losses[:cut])
        after.load_state_dict(json.loads(json.dumps(before.state_dict())))
        findings += watched(after, losses[cut:], cut + 1)
        assert findings == expected
        assert after.state_dict() == straight.state_dict()


def test_a_bad_stretch_is_not_sound_and_not_calm() -> None:
    monitor = stability_monitor(TrainingConfig())
    watched(monitor, noisy(40))
    assert (monitor.last_healthy_step, monitor.calm) == (400, True)
    watched(monitor, [4.0], 41)
    assert (monitor.last_healthy_step, monitor.calm) == (400, False)
    watched(monitor, [2.0], 42)
    assert (monitor.last_healthy_step, monitor.calm) == (420, True)
    monitor.interval(replace(METRICS, step=430, skips=1))
    assert monitor.last_healthy_step == 420
