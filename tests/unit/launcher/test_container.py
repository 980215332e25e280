"""Control group files, log lines, and the imports of the launcher."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aurl_trainer import logs
from aurl_trainer.system import cgroup


@pytest.mark.parametrize(
    ("files", "limit", "kills"),
    [
        ({"cpu.max": "150000 100000", "memory.events": "low 0\noom 3\noom_kill 2\n"}, 1.5, 2),
        ({"cpu.max": "max 100000"}, None, 0),
        (
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "50000",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
                "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
            },
            0.5,
            4,
        ),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, 0),
        ({}, None, 0),
    ],
)
def test_limits_of_both_versions(
    tmp_path: Path, files: dict[str, str], limit: float | None, kills: int
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert (cgroup.cpu_limit(tmp_path), cgroup.oom_kills(tmp_path)) == (limit, kills)
    if limit is not None:
        assert cgroup.threads_per_rank(1, tmp_path) <= 2
    assert cgroup.threads_per_rank(1000, tmp_path) == 1


def logged(environment: dict[str, str]) -> str:
    stream = io.StringIO()
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    try:
        logs.setup(environment, stream=stream)
        try:
            raise ValueError("wild \n value")
        except ValueError:
            logging.getLogger("aurl_trainer.test").warning(
                "it %s", "broke", exc_info=True, extra={"step": 7, "path": Path("x")}
            )
    finally:
        root.handlers[:], root.level = before
    return stream.getvalue()


def test_json_logs_are_one_object_per_line() -> None:
    (line,) = logged({"AURL_JOB_NAME": "123", "AURL_ATTEMPT": "2", "RANK": "0"}).splitlines()
    record = json.loads(line)
    assert (record["message"], record["level"], record["step"], record["path"]) == (
        "it broke",
        "warning",
        7,
        "x",
    )
    assert (record["job"], record["attempt"], record["rank"]) == ("123", 2, 0)
    assert "ValueError" in record["traceback"] and record["time"].endswith("Z")


def test_text_logs_are_for_reading() -> None:
    first = logged({"AURL_LOG_FORMAT": "text", "RANK": "1"}).splitlines()[0]
    assert first[8:] == " WARNING rank 1: it broke  step=7  path=x"


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        (
            "aurl_trainer.monitor.report, aurl_trainer.launcher.launch, aurl_trainer.cli.main, "
            "aurl_trainer.cli.launch",
            {"torch", "pydantic", "numpy", "matplotlib", "yaml"},
        ),
        ("aurl_trainer.config, aurl_trainer.cli.configuration", {"torch", "numpy", "matplotlib"}),
    ],
    ids=["launcher", "configuration"],
)
def test_what_must_start_fast_loads_nothing_heavy(modules: str, heavy: set[str]) -> None:
    code = f"import sys, {modules}\nprint(sorted({heavy!r} & set(sys.modules)))"
    trainer = Path(__file__).parents[3] / "trainer"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(trainer)},
    )
    assert answer.stdout.strip() == "[]"
