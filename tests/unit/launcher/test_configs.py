"""The shipped job files are valid, and the bare one equals its job."""

from __future__ import annotations

from pathlib import Path

import pytest

from aurl_trainer.cli.jobfile import read_job

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS))
)
def test_a_shipped_file_is_valid(path: Path) -> None:
    assert read_job(path).config.training.steps > 0


def test_the_bare_file_is_the_jobs_training() -> None:
    job, bare = (read_job(CONFIGS / folder / "chorales.yaml") for folder in ("jobs", "training"))
    assert job.config == bare.config
    assert (job.name, job.processes, bare.processes) == ("chorales", 2, 1)
