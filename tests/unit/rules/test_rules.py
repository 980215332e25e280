"""Alerts and recording rules, tested with promtool: each alert fires when it should and not otherwise."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from aurl_dev.cluster import system

ROOT = Path(__file__).resolve().parents[3]
RULES = ROOT / "charts/aurl-operator/rules/aurl.yaml"
RUNBOOKS = ROOT / "docs/runbooks.md"
GROUPS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}

JOB = 'namespace="music",training_job="bach",pod="bach-0-0"'
TRAINING = {f'aurl_train_state{{{JOB},state="Training"}}': "1x200"}
#: Series of promtool, one sample per minute: a+bxn is a, a+b … a+n·b.
GROWING, STANDING = "0+60x200", "60x200"


@pytest.fixture(scope="module")
def promtool() -> str:
    """Debian's promtool."""
    system.ensure(("prometheus",), print)
    return str(system.program("promtool"))


@dataclass(frozen=True)
class Case:
    """Scraped series, and how many alerts of a name fire after some minutes."""

    alert: str
    firing: int
    series: Mapping[str, str]
    minutes: int = 90


CASES = [
    Case(
        "AurlTrainingStalled",
        1,
        {f'aurl_train_heartbeat_timestamp_seconds{{{JOB},rank="0"}}': STANDING, **TRAINING},
    ),
    Case(
        "AurlTrainingStalled",
        0,
        {f'aurl_train_heartbeat_timestamp_seconds{{{JOB},rank="0"}}': GROWING, **TRAINING},
    ),
    # Saving the final checkpoint, or waiting for a final scrape, is not a stall.
    Case("AurlTrainingStalled", 0, {f'aurl_train_heartbeat_timestamp_seconds{{{JOB},rank="0"}}': STANDING}),
    # One of two ranks is stuck.
    Case(
        "AurlTrainingStalled",
        1,
        {
            f'aurl_train_heartbeat_timestamp_seconds{{{JOB},rank="0"}}': GROWING,
            f'aurl_train_heartbeat_timestamp_seconds{{{JOB},rank="1"}}': STANDING,
            **TRAINING,
        },
    ),
    Case("AurlTrainingDiverging", 1, {f"aurl_train_rollbacks_total{{{JOB}}}": "0x70 1 2 3 3x20"}),
    Case("AurlTrainingDiverging", 0, {f"aurl_train_rollbacks_total{{{JOB}}}": "0x70 1x30"}),
    Case(
        "AurlTrainingDiverging",
        1,
        {f'aurl_train_anomalies_total{{{JOB},kind="LossDivergence",action="stop"}}': "0x80 1x20"},
    ),
    Case(
        "AurlTrainingNonFiniteBurst",
        1,
        {f'aurl_train_skipped_steps_total{{{JOB},reason="nonfinite"}}': "0+3x200"},
    ),
    Case(
        "AurlTrainingNonFiniteBurst",
        0,
        {f'aurl_train_skipped_steps_total{{{JOB},reason="nonfinite"}}': "0x50 4x60"},
    ),
    Case(
        "AurlTrainingNonFiniteBurst",
        0,
        {f'aurl_train_skipped_steps_total{{{JOB},reason="spike"}}': "0+3x200"},
    ),
    Case("AurlTrainingDataStarved", 1, {f'aurl_train_data_wait_seconds_total{{{JOB},rank="1"}}': "0+24x200"}),
    Case("AurlTrainingDataStarved", 0, {f'aurl_train_data_wait_seconds_total{{{JOB},rank="1"}}': "0+6x200"}),
    Case(
        "AurlCheckpointTooOld", 1, {f"aurl_train_checkpoint_timestamp_seconds{{{JOB}}}": STANDING, **TRAINING}
    ),
    Case(
        "AurlCheckpointTooOld", 0, {f"aurl_train_checkpoint_timestamp_seconds{{{JOB}}}": GROWING, **TRAINING}
    ),
    Case("AurlCheckpointTooOld", 0, {f"aurl_train_checkpoint_timestamp_seconds{{{JOB}}}": STANDING}),
    Case(
        "AurlCheckpointsFailing", 1, {f'aurl_train_checkpoints_total{{{JOB},result="failed"}}': "0x80 1x20"}
    ),
    Case("AurlCheckpointsFailing", 0, {f'aurl_train_checkpoints_total{{{JOB},result="saved"}}': "0+1x200"}),
    Case(
        "AurlTrainingLowGoodput",
        1,
        {
            f"aurl_train_goodput_ratio{{{JOB}}}": "0.3x200",
            f"aurl_train_goodput_seconds{{{JOB}}}": "1500x200",
            f'aurl_train_badput_seconds{{{JOB},cause="init"}}': "1000x200",
            f'aurl_train_badput_seconds{{{JOB},cause="restart"}}': "2500x200",
        },
    ),
    # A job that has just started.
    Case(
        "AurlTrainingLowGoodput",
        0,
        {
            f"aurl_train_goodput_ratio{{{JOB}}}": "0.3x200",
            f"aurl_train_goodput_seconds{{{JOB}}}": "30x200",
            f'aurl_train_badput_seconds{{{JOB},cause="init"}}': "70x200",
        },
    ),
    Case(
        "AurlTrainingStraggler",
        1,
        {'aurl_operator_job_stragglers{job_namespace="music",job_name="bach"}': "1x200"},
    ),
    Case(
        "AurlTrainingStraggler",
        0,
        {'aurl_operator_job_stragglers{job_namespace="music",job_name="bach"}': "0x200"},
    ),
    Case("AurlJobsCrashLoop", 1, {'aurl_operator_restarts_total{class="Unknown"}': "0x70 0+1x20"}),
    Case("AurlJobsCrashLoop", 0, {'aurl_operator_restarts_total{class="Unknown"}': "0x70 3x30"}),
    Case("AurlJobsCrashLoop", 0, {'aurl_operator_restarts_total{class="Preemption"}': "0+1x200"}),
    Case("AurlJobsOutOfMemoryLoop", 1, {'aurl_operator_restarts_total{class="OutOfMemory"}': "0x60 0+1x30"}),
    Case("AurlJobsOutOfMemoryLoop", 0, {'aurl_operator_restarts_total{class="OutOfMemory"}': "0x60 1x40"}),
    Case("AurlOperatorDown", 1, {'aurl_operator_leader{pod="a"}': "0x200"}),
    Case("AurlOperatorDown", 1, {}),
    Case(
        "AurlOperatorDown",
        0,
        {'aurl_operator_leader{pod="a"}': "0x200", 'aurl_operator_leader{pod="b"}': "1x200"},
    ),
    Case(
        "AurlOperatorWatchStale",
        1,
        {'aurl_operator_watch_last_contact_timestamp_seconds{resource="pods"}': STANDING},
    ),
    Case(
        "AurlOperatorWatchStale",
        0,
        {'aurl_operator_watch_last_contact_timestamp_seconds{resource="pods"}': GROWING},
    ),
    Case("AurlOperatorReconcileErrors", 1, {'aurl_operator_reconciles_total{result="error"}': "0x86 1x20"}),
    Case("AurlOperatorReconcileErrors", 0, {'aurl_operator_reconciles_total{result="retry"}': "0+5x200"}),
    Case("AurlOperatorQueueStuck", 1, {"aurl_operator_queue_oldest_seconds": GROWING}),
    Case("AurlOperatorQueueStuck", 0, {"aurl_operator_queue_oldest_seconds": "3x200"}),
]

#: Series, rule, and what it comes to after ten minutes.
RECORDED = [
    (
        {
            f'aurl_train_compute_seconds{{{JOB},rank="0"}}': "1x20",
            f'aurl_train_compute_seconds{{{JOB},rank="1"}}': "1x20",
            f'aurl_train_compute_seconds{{{JOB},rank="2"}}': "3x20",
        },
        "namespace_training_job:aurl_train_compute_seconds:max_over_median",
        3,
    ),
    (
        {f"aurl_train_tokens_per_second{{{JOB}}}": "500x20"},
        "namespace_training_job:aurl_train_tokens_per_second:sum",
        500,
    ),
    (
        {f'aurl_train_data_wait_seconds_total{{{JOB},rank="0"}}': "0+6x20"},
        "namespace_training_job:aurl_train_data_wait:ratio_rate5m",
        0.1,
    ),
    (
        {
            'aurl_operator_jobs{pod="a",state="Running"}': "3x20",
            'aurl_operator_jobs{pod="b",state="Running"}': "0x20",
        },
        "aurl:operator_jobs:sum",
        3,
    ),
    (
        {
            'aurl_operator_reconcile_seconds_bucket{le="0.1"}': "0+99x20",
            'aurl_operator_reconcile_seconds_bucket{le="0.25"}': "0+100x20",
            'aurl_operator_reconcile_seconds_bucket{le="+Inf"}': "0+100x20",
        },
        "aurl:operator_reconcile_seconds:p99_rate5m",
        0.1,
    ),
    (
        {f'aurl_train_heartbeat_timestamp_seconds{{{JOB},rank="0"}}': "60x20"},
        "namespace_training_job:aurl_train_heartbeat_age_seconds:max",
        540,
    ),
    (
        {f"aurl_train_checkpoint_timestamp_seconds{{{JOB}}}": "0x20"},
        "namespace_training_job:aurl_train_checkpoint_age_seconds:max",
        600,
    ),
    (
        {'aurl_operator_watch_last_contact_timestamp_seconds{resource="pods"}': "0x20"},
        "aurl:operator_watch_age_seconds:max",
        600,
    ),
]


def try_rules(
    promtool: str, place: Path, series: Mapping[str, str], minutes: int, expression: str, values: list[float]
) -> None:
    """Evaluate all rules over the series with promtool, and compare the values of an expression."""
    samples = [{"labels": "{}", "value": value} for value in values]
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": expression, "eval_time": f"{minutes}m", "exp_samples": samples}],
    }
    document = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}
    file = place / "test.yaml"
    file.write_text(yaml.safe_dump(document))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules(promtool: str) -> None:
    command = [promtool, "check", "rules", "--lint=all", "--lint-fatal", str(RULES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}-{case.firing}")
def test_alerts(case: Case, promtool: str, tmp_path: Path) -> None:
    expression = f'count(ALERTS{{alertname="{case.alert}",alertstate="firing"}})'
    expected = [float(case.firing)] if case.firing else []
    try_rules(promtool, tmp_path, case.series, case.minutes, expression, expected)


@pytest.mark.parametrize(("series", "rule", "value"), RECORDED, ids=[rule for _, rule, _ in RECORDED])
def test_recording_rules(
    series: Mapping[str, str], rule: str, value: float, promtool: str, tmp_path: Path
) -> None:
    try_rules(promtool, tmp_path, series, 10, f"round(sum({rule}), 0.001)", [value])


def test_every_alert_has_cases_that_fire_and_that_do_not() -> None:
    assert {case.alert for case in CASES if case.firing} == ALERTS.keys()
    assert {case.alert for case in CASES if not case.firing} == ALERTS.keys()
    recorded = {rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule}
    assert {rule for _, rule, _ in RECORDED} == recorded


def test_every_alert_has_a_runbook() -> None:
    """Its link points to a section with meaning, impact, diagnosis and fix."""
    sections = dict(
        re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOKS.read_text(), re.MULTILINE | re.DOTALL)
    )
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"].endswith(f"docs/runbooks.md#{name.lower()}")
        assert {"**Meaning.**", "**Impact.**", "**Diagnosis.**", "**Fix.**"} <= set(
            re.findall(r"\*\*\w+\.\*\*", sections.get(name, ""))
        ), name
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"] and rule["annotations"]["description"]
    assert sections.keys() == ALERTS.keys()
