"""The launcher's metrics, read by Prometheus' own parser."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from aurl_trainer.contract import LaunchRole
from aurl_trainer.launcher.environment import read_environment
from aurl_trainer.launcher.exposition import render
from aurl_trainer.launcher.rundir import RunDirectory
from aurl_trainer.metrics import ValidationMetrics
from aurl_trainer.monitor.snapshot import (
    CheckpointRecord,
    JobSnapshot,
    PreparationSnapshot,
    RankSnapshot,
)
from aurl_trainer.stability.anomaly import ACTIONS
from metric_records import step_metrics

CONTRACT = Path(__file__).parents[3] / "docs/contracts.md"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(
    seen: RunDirectory, *, role: LaunchRole = "train", node_rank: int = 0, state: str = "Training"
) -> Samples:
    environment = read_environment(
        {
            "AURL_NUM_NODES": "2", "AURL_NODE_RANK": str(node_rank), "AURL_RDZV_ENDPOINT": "10.0.0.7:29400",
            "AURL_CONFIG": "c", "AURL_VOLUME": "v", "AURL_RUN_DIR": "r", "AURL_ATTEMPT": "1",
        }
    )  # fmt: skip
    text = render(environment, role, seen, state).decode()
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    samples: Samples = {}
    for family in families:
        assert family.documentation and family.type in ("gauge", "counter")
        for sample in family.samples:
            assert not {"job", "instance", "namespace", "pod"} & set(sample.labels)
            samples[sample.name, frozenset(sample.labels.items())] = sample.value
    return samples


def full_run() -> RunDirectory:
    job = JobSnapshot(
        mode="transformer", precision="bf16", total_steps=100, start_step=40, initial_loss=6.0,
        metrics=step_metrics(loss=2.5, mfu=0.4, terms={"z_loss": 4.0}, components={"kl_bar": 1.5}),
        validation=ValidationMetrics(2.75, 2.625), tokens=5000, samples=50, micro_batch_size=2,
        first_step_at=10.0, compute_seconds=[0.1, 0.2], goodput_ratio=0.9,
        last_checkpoint=CheckpointRecord(40, "x", 9.0), checkpoint_seconds=0.25, evaluation={"accuracy": 0.5},
    )  # fmt: skip
    memory = dict.fromkeys(("rss", "rss_peak", "device_allocated", "device_reserved", "device_peak"), 7)
    rank = RankSnapshot(0, 0, 2, 1, step=50, heartbeat_at=12.0, memory=memory, job=job)
    rank.phase_seconds["data_wait"] = 1.5
    rank.memory_phases["evaluation"] = {"rss": 9}
    return RunDirectory(ranks={0: rank})


def test_every_metric_of_the_contract_is_served_and_no_other() -> None:
    text = CONTRACT.read_text()
    documented = set(re.findall(r"`(aurl_(?:train|prepare)_[a-z_]+)`", text))
    served = {name for name, _ in scrape(full_run())} | {
        name for name, _ in scrape(RunDirectory(), role="prepare")
    }
    assert served == documented


def test_counters_exist_from_the_first_scrape_on() -> None:
    samples = scrape(RunDirectory(), state="Starting")
    assert samples["aurl_train_tokens_total", frozenset()] == 0
    for name, label, children in (
        ("aurl_train_skipped_steps_total", "reason", ("nonfinite", "spike")),
        ("aurl_train_badput_seconds", "cause", ("init", "lost_progress", "restart", "preparation")),
        ("aurl_train_checkpoints_total", "result", ("saved", "failed", "damaged")),
        ("aurl_train_time_seconds_total", "phase", ("init", "step", "checkpoint", "other")),
    ):
        for child in children:
            assert samples[name, frozenset({(label, child)})] == 0
    for kind, actions in ACTIONS.items():
        for action in actions:
            labels = frozenset({("kind", str(kind)), ("action", str(action))})
            assert samples["aurl_train_anomalies_total", labels] == 0
    assert samples["aurl_train_data_wait_seconds_total", frozenset({("rank", "0")})] == 0
    assert samples["aurl_train_state", frozenset({("state", "Starting")})] == 1
    assert not [name for name, _ in samples if name in ("aurl_train_loss", "aurl_train_step")]


def test_values_of_the_job_come_from_rank_0_alone() -> None:
    samples = scrape(full_run())
    assert samples["aurl_train_loss", frozenset({("split", "validation")})] == 2.75
    assert samples["aurl_train_loss", frozenset({("split", "validation_ema")})] == 2.625
    assert samples["aurl_train_loss_term", frozenset({("term", "z_loss")})] == 4.0
    assert samples["aurl_train_loss_component", frozenset({("term", "kl_bar")})] == 1.5
    assert samples["aurl_train_evaluation", frozenset({("metric", "accuracy")})] == 0.5
    assert samples["aurl_train_data_wait_seconds_total", frozenset({("rank", "0")})] == 1.5
    assert samples["aurl_train_step", frozenset()] == 50
    assert samples["aurl_train_micro_batch_size_samples", frozenset()] == 2
    peak = frozenset({("rank", "0"), ("phase", "evaluation"), ("kind", "rss")})
    assert samples["aurl_train_memory_phase_peak_bytes", peak] == 9
    other = scrape(RunDirectory(ranks={1: RankSnapshot(1, 0, 2, 1, memory={"rss": 5})}), node_rank=1)
    assert {name for name, _ in other} == {
        "aurl_train_state", "aurl_train_memory_bytes", "aurl_train_data_wait_seconds_total",
    }  # fmt: skip


def test_the_preparation_counts_its_files() -> None:
    seen = RunDirectory(
        preparation=PreparationSnapshot(0.0, 1.0, files_done=10, files_total=12, files_dropped=3)
    )
    samples = scrape(seen, role="prepare", state="Preparing")
    assert samples["aurl_prepare_files_total", frozenset({("result", "tokenized")})] == 7
    assert samples["aurl_prepare_files_total", frozenset({("result", "dropped")})] == 3
