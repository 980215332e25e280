"""A metric is declared in one place and reaches every sink that it declares."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import aurl_trainer
from aurl_trainer.checkpoint.state import Progress
from aurl_trainer.config import TrainingConfig
from aurl_trainer.contract import SUCCEEDED
from aurl_trainer.launcher import exposition, history, progress, termination
from aurl_trainer.launcher.environment import read_environment
from aurl_trainer.launcher.outcome import Outcome
from aurl_trainer.launcher.rundir import RunDirectory
from aurl_trainer.loop.metric_logger import MetricLogger
from aurl_trainer.metrics import Column, Gauge, Shown, StepMetrics, declared
from aurl_trainer.monitor import snapshot
from aurl_trainer.monitor.report import RankReporter
from aurl_trainer.monitor.snapshot import RankSnapshot, rank_file, read_snapshot
from aurl_trainer.optim.guard import GuardStatistics
from metric_records import DEFAULTS, step_metrics

SOURCES = sorted(Path(aurl_trainer.__file__).parent.rglob("*.py"))
PAGE = sorted(Path(aurl_trainer.__file__).parent.rglob("page/*"))


@dataclass(frozen=True)
class WithEntropy(StepMetrics):
    """The metrics and one more, as somebody would add it."""

    entropy: Annotated[
        float,
        Shown(
            "model/entropy", "entropy", Gauge("entropy", "Entropy of the predictions."),
            Column("entropy", "Entropy"), final=True,
        ),
    ] = 0.25  # fmt: skip


@dataclass
class Sinks:
    """A record as every sink shows it."""

    log: dict[str, Any]
    board: dict[str, float]
    progress: dict[str, Any]
    samples: dict[str, dict[str, float]]
    """By name and, for children, value of the label."""
    rows: dict[str, float | None]
    charts: set[str]
    termination: dict[str, Any]


class Board:
    """Scalars as TensorBoard would get them."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.values |= values


def metric_logger(board: Board, reporter: RankReporter) -> MetricLogger:
    config = TrainingConfig.model_validate({"batch": {"globalBatchSize": 8}, "contextLength": 64})
    mfu: Any = SimpleNamespace(mfu=lambda speed, length: 0.5)
    return MetricLogger(config, Progress(step=4), reporter, board, first=True, utilisation=mfu)  # type: ignore[arg-type]


def show(
    record: StepMetrics, run_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Sinks:
    """Report a record as the loop does, and read every sink."""
    kind = type(record)
    monkeypatch.setitem(snapshot._NESTED, "metrics", kind)
    for module in (progress, termination, history):
        monkeypatch.setattr(module, "StepMetrics", kind)
    board, reporter = Board(), RankReporter(run_dir)
    reporter.begin(
        mode="vae", precision="fp32", total_steps=9, start_step=0, sequence_length=64, batch_size=8
    )
    reporter.log_step(record)
    reporter.publish()
    with caplog.at_level(logging.INFO):
        metric_logger(board, reporter)._show("step", record)
    rank = read_snapshot(rank_file(run_dir, 0), RankSnapshot)
    assert rank is not None
    environment = read_environment({"AURL_CONFIG": "c", "AURL_VOLUME": "v", "AURL_RUN_DIR": str(run_dir)})
    seen = RunDirectory(ranks={0: rank})
    answer = progress.build(environment, "train", seen, state=None, started_at=0.0, now=1.0)
    text = exposition.render(environment, "train", seen, "Training").decode()
    samples: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, {})["".join(sample.labels.values())] = sample.value
    kept = history.History()
    kept.take(rank)
    document = kept.document()
    return Sinks(
        log=vars(caplog.records[-1]),
        board=board.values,
        progress=answer,
        samples=samples,
        rows=dict(zip(document["train"]["columns"], document["train"]["rows"][-1], strict=True)),
        charts={chart["name"] for chart in document["charts"]},
        termination=termination.build(Outcome(SUCCEEDED, ""), answer, None),
    )


def assert_shown(record: StepMetrics, found: Sinks) -> None:
    """Each field is in every sink that it declares."""
    for name, place in declared(type(record)).items():
        value = getattr(record, name)
        children = value if isinstance(value, Mapping) else {"": value}
        assert children, name
        for child, number in children.items():
            if place.scalar is not None:
                assert found.board[f"{place.scalar}{child}"] == number
                assert found.log[f"{place.scalar}{child}".partition("/")[2]] == number
            if place.gauge is not None:
                assert found.samples[f"aurl_train_{place.gauge.name}"][child or place.child] == number
        if place.progress is not None:
            assert found.progress[place.progress] == value
        if place.final:
            assert found.termination[str(place.progress)] == value
        if place.column is not None:
            assert found.rows[place.column.name] == value
            assert not place.column.title or place.column.name in found.charts


def test_every_metric_reaches_the_sinks_that_it_declares(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = step_metrics(step=4, mfu=0.5, terms={"z_loss": 1.5}, components={"kl": 2.5})
    assert_shown(record, show(record, tmp_path, caplog, monkeypatch))


def test_a_new_field_is_all_that_a_new_metric_needs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = step_metrics(step=4, mfu=0.5, terms={"z_loss": 1.5}, components={"kl": 2.5})
    record = WithEntropy(**vars(plain))
    found = show(record, tmp_path, caplog, monkeypatch)
    assert_shown(record, found)
    assert (found.log["entropy"], found.board["model/entropy"]) == (0.25, 0.25)
    assert (found.progress["entropy"], found.termination["entropy"], found.rows["entropy"]) == (0.25,) * 3
    assert found.samples["aurl_train_entropy"] == {"": 0.25}
    assert "entropy" in found.charts


def test_the_names_of_a_metric_are_in_one_file() -> None:
    """Only the producer and the detectors name a field; no sink knows any metric."""
    names = {name for name in declared(StepMetrics) if "_" in name}
    for place in declared(StepMetrics).values():
        shown_as = (place.progress, place.gauge and place.gauge.name, place.column and place.column.name)
        names |= {str(name) for name in shown_as if name and re.search("[A-Z_]", name)}
    found: dict[str, set[str]] = {}
    for path in [*SOURCES, *PAGE]:
        for name in names & set(re.findall(r"\w+", path.read_text(errors="ignore"))):
            found.setdefault(name, set()).add(path.name)
    producers = {"metrics.py", "metric_logger.py"}
    assert found["gradient_norm"] == {*producers, "detect_gradient.py"}
    assert found["gradientNorm"] == found["samples_per_second"] - {"metric_logger.py"} == {"metrics.py"}
    sinks_modules = {"exposition.py", "progress.py", "history.py", "termination.py", "tensorboard.py"}
    assert not {name: files for name, files in found.items() if files & sinks_modules}


def test_speeds_are_those_of_the_interval() -> None:
    board, reporter = Board(), RankReporter(None)
    logger = metric_logger(board, reporter)
    logger.progress = replace(
        logger.progress, step=6, interval_steps=2, interval_samples=16, interval_tokens=1000
    )
    logger.interval.lap = lambda: 2.0  # type: ignore[method-assign]
    guard = GuardStatistics(norm=0.5, consecutive=0, nonfinite=0, spikes=0, last_rejected=0)
    metrics = logger.steps(2500.0, 1e-3, guard, 32, {"z_loss": 500.0})
    assert (metrics.tokens_per_second, metrics.samples_per_second, metrics.step_seconds) == (512.0, 8.0, 1.0)
    assert (metrics.loss, metrics.initial_loss, metrics.terms) == (2.5, 2.5, {"z_loss": 0.5})
    assert (metrics.batch_size, metrics.mfu) == (16, 0.5)
    assert reporter.job.metrics == metrics
    assert DEFAULTS.keys() <= vars(metrics).keys()
