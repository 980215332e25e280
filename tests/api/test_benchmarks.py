"""The benchmarks that need an API server, at their smallest size: they run, and their JSON is complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import assert_positive, run_smallest

pytestmark = pytest.mark.api


def test_the_operator_and_the_job_controller(tmp_path: Path) -> None:
    phases = ("single", "burst_200", "burst_1000", "idle_1000", "running_1000")
    found = run_smallest("operator", tmp_path, *(word for phase in phases for word in ("--only", phase)))
    for latency in (
        found["single"],
        found["single"]["post_to_first_pod"],
        found["single"]["job_controller"],
        found["running_1000"]["new_job_to_pods"],
    ):
        assert_positive(latency, "p50_ms", "p99_ms")
    for burst in ("burst_200", "burst_1000"):
        names = ("jobs", "seconds", "job_controller_seconds", "ratio_to_job_controller")
        assert_positive(found[burst], *names, "operator_cpu_ms_per_job")
    for phase in ("idle_1000", "running_1000"):
        assert_positive(found[phase], "jobs", "seconds", "cpu_percent", "rss_mib")
    assert_positive(found["operator_start"], "seconds_to_ready")


def test_the_start_of_launcher_and_operator(tmp_path: Path) -> None:
    found = run_smallest("startup", tmp_path)
    for part in ("launcher", "operator"):
        assert_positive(found[part]["wall_ms"], "median")
        assert_positive(found[part]["cpu_ms"], "median")
